"""Idempotency keys: a request that creates something and comes again has the effect of one.

The answer is stored in the transaction that creates, so that no crash lies between the two. A key belongs to its
sender; it is forgotten after a day.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Header, Request
from sqlalchemy import delete, insert, select

from ringfence.api.problems import KeyReused
from ringfence.api.schema import answered_requests
from ringfence.auth.identity import Identity
from ringfence_audit.events import JsonValue
from ringfence_audit.port import Transaction
from ringfence_tools.clock import micros

KEPT_US = 24 * 3600 * 1_000_000


class Key:
    """The key of one request, with what it asked for."""

    def __init__(self, text: str, request_sha256: str) -> None:
        self.text = text
        self._sha256 = request_sha256

    def once(
        self, tx: Transaction, identity: Identity, work: Callable[[Transaction], dict[str, JsonValue]]
    ) -> dict[str, JsonValue]:
        """What `work` answers, or what it answered before. Raises `KeyReused` and whatever `work` raises."""
        if not self.text:
            return work(tx)
        before = self.answered(tx, identity)
        if before is not None:
            return before
        answer = work(tx)
        self.store(tx, identity, answer)
        return answer

    def answered(self, tx: Transaction, identity: Identity) -> dict[str, JsonValue] | None:
        if not self.text:
            return None
        table = answered_requests
        tx.connection.execute(delete(table).where(table.c.answered_at < micros(tx.now) - KEPT_US))
        where = (table.c.person == identity.name) & (table.c.key == self.text)
        row = tx.connection.execute(select(table).where(where)).first()
        if row is None:
            return None
        if row.request_sha256 != self._sha256:
            raise KeyReused("this Idempotency-Key came before, with another request", fix="Use a key of its own")
        answer: dict[str, JsonValue] = json.loads(row.answer)
        return answer

    def store(self, tx: Transaction, identity: Identity, answer: dict[str, JsonValue]) -> None:
        if self.text:
            tx.connection.execute(
                insert(answered_requests).values(
                    person=identity.name,
                    key=self.text,
                    request_sha256=self._sha256,
                    answer=json.dumps(answer),
                    answered_at=micros(tx.now),
                )
            )


async def _key(
    request: Request,
    idempotency_key: Annotated[
        str, Header(max_length=200, pattern=r"^[\x21-\x7e]*$", description="Chosen by you, one a creation")
    ] = "",
) -> Key:
    asked = hashlib.sha256(f"{request.method} {request.url.path}\0".encode() + await request.body())
    return Key(idempotency_key, asked.hexdigest())


KeyHere = Annotated[Key, Depends(_key)]
