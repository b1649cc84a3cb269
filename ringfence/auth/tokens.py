"""Tokens: scoped, expiring, revocable, stored hashed. A token can do no more than its owner can at that moment."""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, Row, insert, select, update

from ringfence.auth.errors import AuthError, PersonUnknown
from ringfence.auth.identity import Identity
from ringfence.auth.people import identity_of
from ringfence.auth.roles import Permission
from ringfence.auth.schema import people, tokens
from ringfence.auth.secret_values import TokenText, fingerprint, new_token, read_token
from ringfence_audit.events import Event, JsonValue, Kind
from ringfence_audit.port import Transaction
from ringfence_tools.clock import micros

LONGEST_DAYS = 366
USE_EVERY_US = 60 * 1_000_000
"""A token in steady use is an entry once a minute, and again for each request that changes something."""


@dataclass(frozen=True, slots=True)
class Token:
    id: str
    person: str
    scopes: frozenset[Permission]
    label: str
    created_by: str
    created_at: int
    expires_at: int
    revoked_at: int | None
    used_at: int

    def is_live(self, now_us: int) -> bool:
        return self.revoked_at is None and self.expires_at > now_us


@dataclass(frozen=True, slots=True)
class TokenUse:
    """An authenticated token, and whether this use is to be recorded."""

    identity: Identity
    token: str
    is_due: bool


def create(
    tx: Transaction, person: str, *, by: str, scopes: Iterable[Permission], label: str, days: int, maker: str = ""
) -> TokenText:
    """The token's text, which nobody can see again. `maker` is the token that asks for it: it ends no later than that
    one, and when that one is revoked. Raises `AuthError` and `PersonUnknown`.
    """
    if not 1 <= days <= LONGEST_DAYS:
        raise AuthError(f"a token lives 1 to {LONGEST_DAYS} days", fix="Choose a shorter time")
    row = tx.connection.execute(select(people.c.disabled_at).where(people.c.name == person)).first()
    if row is None or row.disabled_at is not None:
        raise PersonUnknown(f"there is no person {person[:63]}", fix="Name an account that exists")
    wanted = sorted(set(scopes))
    if not wanted:
        raise AuthError("a token needs at least one scope", fix=f"Choose among {', '.join(Permission)}")
    text = new_token()
    expires_at = micros(tx.now) + days * 86400 * 1_000_000
    if maker:
        made_by = get(tx.connection, maker)
        if made_by is None or not made_by.is_live(micros(tx.now)):
            raise AuthError("the token that asks has ended", fix="Log in")
        expires_at = min(expires_at, made_by.expires_at)
    tx.connection.execute(
        insert(tokens).values(
            id=text.id,
            person=person,
            secret_sha256=fingerprint(text.secret),
            scopes=json.dumps(wanted),
            label=label,
            created_by=f"token:{maker}" if maker else by,
            created_at=micros(tx.now),
            expires_at=expires_at,
        )
    )
    data: dict[str, JsonValue] = {
        "what": "token.created",
        "token": text.id,
        "person": person,
        "scopes": list(wanted),
        "expires_at": expires_at,
    }
    tx.record(Event(Kind.LOGIN, by, data))
    return text


def revoke(tx: Transaction, token: str, *, by: str) -> None:
    """Ends it now, with those that were made by it. Raises `PersonUnknown` where it is not live."""
    if not _end(tx, token, by=by):
        raise PersonUnknown(f"there is no live token {token[:20]}", fix="List those there are")
    # Not by recursion: whoever holds a token can make a chain of any length, and must not be safe behind it.
    pending = [token]
    while pending:
        maker = pending.pop()
        made = select(tokens.c.id).where(tokens.c.created_by == f"token:{maker}", tokens.c.revoked_at.is_(None))
        for row in tx.connection.execute(made).all():
            _end(tx, row.id, by=by)
            pending.append(row.id)


def _end(tx: Transaction, token: str, *, by: str) -> bool:
    where = (tokens.c.id == token) & tokens.c.revoked_at.is_(None)
    if not tx.connection.execute(update(tokens).where(where).values(revoked_at=micros(tx.now))).rowcount:
        return False
    tx.record(Event(Kind.LOGIN, by, {"what": "token.revoked", "token": token}))
    return True


def get(connection: Connection, token: str) -> Token | None:
    row = connection.execute(select(tokens).where(tokens.c.id == token)).first()
    return None if row is None else _token(row)


def list_tokens(
    connection: Connection, *, person: str | None, live_at: int | None = None, after: str = "", limit: int = 50
) -> tuple[Token, ...]:
    """By id; of one person, or of everybody. `live_at`: only those that open something at that time."""
    query = select(tokens).where(tokens.c.id > after).order_by(tokens.c.id).limit(limit)
    if person is not None:
        query = query.where(tokens.c.person == person)
    if live_at is not None:
        query = query.where(tokens.c.revoked_at.is_(None), tokens.c.expires_at > live_at)
    return tuple(_token(row) for row in connection.execute(query))


def authenticate(connection: Connection, text: str, now_us: int) -> TokenUse | None:
    """Whose token this is; None for one that is unknown, expired, revoked, or whose owner is gone."""
    parts = read_token(text)
    if parts is None:
        return None
    row = connection.execute(select(tokens).where(tokens.c.id == parts.id)).first()
    if row is None or not hmac.compare_digest(row.secret_sha256, fingerprint(parts.secret)):
        return None
    found = _token(row)
    if not found.is_live(now_us):
        return None
    identity = identity_of(connection, found.person, scopes=found.scopes, token=found.id, how="token")
    return None if identity is None else TokenUse(identity, found.id, now_us - found.used_at >= USE_EVERY_US)


def record_use(tx: Transaction, use: TokenUse, *, address: str, request: str) -> None:
    tx.connection.execute(update(tokens).where(tokens.c.id == use.token).values(used_at=micros(tx.now)))
    data = {"what": "token.used", "token": use.token, "address": address, "request": request}
    tx.record(Event(Kind.LOGIN, use.identity.principal, data))


def _token(row: Row[tuple[object, ...]]) -> Token:
    known = {permission.value: permission for permission in Permission}
    return Token(
        id=row.id,
        person=row.person,
        scopes=frozenset(known[scope] for scope in json.loads(row.scopes) if scope in known),
        label=row.label,
        created_by=row.created_by,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        used_at=row.used_at,
    )
