"""What people do, counted: each vote, log-in, order and question has a number, and is signed with a key of its own.

Other than the gate of one process (`producers`), people act through many short processes. So their count lies in the
database, is moved in the transaction of the act, and is signed with every act: a vote that is dropped together with
what it allowed leaves a hole, and one that is put in is signed by nobody.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256

from sqlalchemy import Connection, insert, select, update

from ringfence_audit.counters import PEOPLE, STAMP, START, Told, advance, fingerprint, signed_message
from ringfence_audit.errors import LogUnavailable
from ringfence_audit.events import Event, JsonValue, Kind
from ringfence_audit.keys import KeyUnusable, Signer
from ringfence_audit.notes import VerifierKey
from ringfence_audit.records import counts


def is_of_people(told: Told) -> bool:
    """Whether it is an act of a person, or an attempt to become one."""
    return told.actor.startswith("person:") or told.kind == Kind.LOGIN


class PeopleCount:
    """Stamps what people do. Used by the log's writer, inside the transaction of the act, alone against all others."""

    def __init__(self, signer: Callable[[], Signer]) -> None:
        """`signer` is asked at the first act, and gives the people's own key, never the log's."""
        self._load = signer
        self._signer: Signer | None = None

    def stamped(self, event: Event, connection: Connection) -> Event:
        """The event as it is recorded: unchanged where it is no act of a person, or is counted already.

        Raises `LogUnavailable` where the key cannot be used."""
        if STAMP in event.data or not is_of_people(event):
            return event
        signer = self._opened()
        name = f"{PEOPLE}:{sha256(signer.public_key).hexdigest()[:16]}"
        known = connection.execute(select(counts.c.count, counts.c.head).where(counts.c.producer == name)).first()
        number, head = (0, START) if known is None else (int(known[0]), bytes(known[1]))
        head = advance(head, fingerprint(event, name))
        values = {"count": number + 1, "head": head}
        if known is None:
            connection.execute(insert(counts).values(producer=name, **values))
        else:
            connection.execute(update(counts).where(counts.c.producer == name).values(**values))
        stamp: JsonValue = {
            "id": name,
            "n": number,
            "key": str(VerifierKey.of_log(signer.origin, signer.public_key)),
            "head": head.hex(),
            "signature": base64.b64encode(signer.sign(signed_message(name, number + 1, head))).decode(),
        }
        return replace(event, data={**event.data, STAMP: stamp})

    def _opened(self) -> Signer:
        if self._signer is None:
            try:
                self._signer = self._load()
            except KeyUnusable as error:
                raise LogUnavailable(f"what people do cannot be signed ({error}): nothing was done") from error
        return self._signer
