"""Log-ins and browser sessions. Each log-in, good or bad, and each log-out is an entry."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from ringfence.auth import attempts, passwords
from ringfence.auth.errors import LoginRefused, TooManyTries
from ringfence.auth.identity import Identity
from ringfence.auth.people import finish_setup, identity_of, setup_link
from ringfence.auth.refusals import Refusals
from ringfence.auth.schema import people, web_sessions
from ringfence.auth.sealing import Seal
from ringfence.auth.secret_values import fingerprint, new_secret
from ringfence_audit.events import Event, JsonValue, Kind, Personal
from ringfence_audit.port import Store, Transaction
from ringfence_tools.clock import micros

LONGEST_US = 12 * 3600 * 1_000_000
IDLE_US = 2 * 3600 * 1_000_000
_TOUCH_US = 60 * 1_000_000


@dataclass(frozen=True, slots=True)
class SessionUse:
    """An authenticated session; `is_due` when its last use should be noted so that it does not idle out."""

    identity: Identity
    is_due: bool


@dataclass(frozen=True, slots=True)
class _Account:
    password: str
    sealed_seed: str
    step: int
    is_open: bool


async def log_in(
    store: Store, seal: Seal, name: str, password: str, code: str, *, address: str, refusals: Refusals | None = None
) -> str:
    """The new session's secret. Raises `LoginRefused` and `TooManyTries`, alike for every kind of failure.

    `refusals` bounds what strangers can write into the log; without it each one is an entry.
    """
    claimed = name.strip().lower()[:64]
    refused = refusals or Refusals()

    def look(tx: Transaction) -> tuple[int, _Account, int]:
        wait = attempts.wait_s(tx.connection, claimed, address, micros(tx.now))
        if not wait:
            # Counted before the password is looked at, so that tries at once cannot pass together.
            attempts.failed(tx, claimed, address)
        return wait, _account(tx.connection, claimed), int(tx.now.timestamp())

    wait, account, now_s = await store.write(look)
    if wait:
        await refused.record(store, lambda tx: _refused(tx, claimed, address, "slowed down"))
        raise TooManyTries(wait)
    is_right = await asyncio.to_thread(passwords.is_password, password, account.password)
    step = passwords.matching_step(seal.open(account.sealed_seed, claimed), code, now_s=now_s, after=account.step)

    def finish(tx: Transaction) -> str | None:
        if not (is_right and account.is_open and step is not None and _use_step(tx, claimed, step)):
            return None
        attempts.succeeded(tx, claimed, address)
        return open_session(tx, claimed, how="password", address=address)

    secret = await store.write(finish)
    if secret is None:
        await refused.record(store, lambda tx: _refused(tx, claimed, address, "wrong name, password or code"))
        raise LoginRefused
    return secret


async def enrol(store: Store, seal: Seal, link: str, password: str, code: str, *, address: str) -> str:
    """Use a one-time link up: set the password and the second factor, and open a session.

    Raises `LinkInvalid`, `PasswordWeak`, and `LoginRefused` where the code does not prove the new second factor.
    """

    def look(tx: Transaction) -> tuple[str, int]:
        found = setup_link(tx.connection, link, micros(tx.now))
        return seal.open(found.sealed_seed, found.person), int(tx.now.timestamp())

    seed, now_s = await store.write(look)
    step = passwords.matching_step(seed, code, now_s=now_s, after=0)
    if step is None:
        raise LoginRefused("the code does not match", fix="Type the six digits that your app shows now")
    hashed = await asyncio.to_thread(passwords.hash_password, password)

    def finish(tx: Transaction) -> str:
        person = finish_setup(tx, link, password_hash=hashed, step=step)
        return open_session(tx, person, how="one-time link", address=address)

    return await store.write(finish)


def open_session(tx: Transaction, person: str, *, how: str, address: str) -> str:
    """A new session, whoever vouched for the person. Returns its secret."""
    secret = new_secret()
    now = micros(tx.now)
    tx.connection.execute(
        insert(web_sessions).values(
            id_sha256=fingerprint(secret),
            person=person,
            how=how,
            created_at=now,
            seen_at=now,
            expires_at=now + LONGEST_US,
        )
    )
    subject = f"person:{person}"
    data: dict[str, JsonValue] = {"what": "login", "person": person, "how": how, "address": Personal(subject, address)}
    tx.record(Event(Kind.LOGIN, subject, data))
    return secret


def authenticate(connection: Connection, secret: str, now_us: int) -> SessionUse | None:
    """Whose session this is; None for one that is unknown, ended, idle too long, or whose owner is gone."""
    row = connection.execute(select(web_sessions).where(web_sessions.c.id_sha256 == fingerprint(secret))).first()
    if row is None or row.ended_at is not None or row.expires_at <= now_us or row.seen_at + IDLE_US <= now_us:
        return None
    identity = identity_of(connection, row.person, how=row.how)
    return None if identity is None else SessionUse(identity, now_us - row.seen_at >= _TOUCH_US)


def touch(tx: Transaction, secret: str) -> None:
    """Note that the session is in use."""
    where = web_sessions.c.id_sha256 == fingerprint(secret)
    tx.connection.execute(update(web_sessions).where(where).values(seen_at=micros(tx.now)))


def log_out(tx: Transaction, secret: str) -> None:
    where = (web_sessions.c.id_sha256 == fingerprint(secret)) & web_sessions.c.ended_at.is_(None)
    row = tx.connection.execute(select(web_sessions.c.person).where(where)).first()
    if row is None:
        return
    tx.connection.execute(update(web_sessions).where(where).values(ended_at=micros(tx.now)))
    tx.record(Event(Kind.LOGIN, f"person:{row.person}", {"what": "logout", "person": row.person}))


def record_denial(tx: Transaction, identity: Identity, *, permission: str, request: str, address: str) -> None:
    """An authenticated caller asked for what they may not do."""
    data = {"what": "denied", "permission": permission, "request": request, "address": address, "token": identity.token}
    tx.record(Event(Kind.LOGIN, identity.principal, data))


def _account(connection: Connection, name: str) -> _Account:
    row = connection.execute(select(people).where(people.c.name == name)).first()
    if row is None:
        return _Account("", "", 0, is_open=False)
    return _Account(row.password, row.totp_seed, row.totp_step, row.disabled_at is None and row.kind == "person")


def _use_step(tx: Transaction, name: str, step: int) -> bool:
    """Each code is good once."""
    where = (people.c.name == name) & (people.c.totp_step < step)
    return bool(tx.connection.execute(update(people).where(where).values(totp_step=step)).rowcount)


def _refused(tx: Transaction, claimed: str, address: str, reason: str) -> Mapping[str, JsonValue]:
    """A name that is no account's is not kept: people type passwords there."""
    if tx.connection.execute(select(people.c.name).where(people.c.name == claimed)).first() is None:
        claimed = "(no account)"
    return {"what": "login.refused", "claimed": claimed, "address": address, "reason": reason}
