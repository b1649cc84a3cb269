"""Brute force is slowed: failures are counted per account and address, per address, and (mildly) per account.

An account alone is never locked for long, so that a stranger cannot lock its owner out. Tries of tokens (`name` None)
are counted by address alone and apart: they carry 256 random bits, and must hold up nobody who logs in.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select, update

from ringfence.auth.schema import login_attempts
from ringfence_audit.port import Transaction
from ringfence_tools.clock import micros

_FORGET_US = 24 * 3600 * 1_000_000


@dataclass(frozen=True, slots=True)
class _Rule:
    free: int
    """Failures that cost nothing."""
    longest_s: int


_PAIR, _ADDRESS, _ACCOUNT = _Rule(4, 900), _Rule(20, 900), _Rule(20, 5)


def wait_s(connection: Connection, name: str | None, address: str, now_us: int) -> int:
    """Seconds until this name may be tried again from this address; 0 for now."""
    waits = [0]
    for subject, rule in _subjects(name, address).items():
        row = connection.execute(select(login_attempts).where(login_attempts.c.subject == subject)).first()
        if row is None or row.failures <= rule.free or now_us - row.last_at > _FORGET_US:
            continue
        pause_s = min(2 ** min(row.failures - rule.free, 20), rule.longest_s)
        waits.append(-((now_us - row.last_at - pause_s * 1_000_000) // 1_000_000))
    return max(waits)


def failed(tx: Transaction, name: str | None, address: str) -> None:
    now_us = micros(tx.now)
    for subject in _subjects(name, address):
        where = login_attempts.c.subject == subject
        row = tx.connection.execute(select(login_attempts).where(where)).first()
        if row is None:
            tx.connection.execute(insert(login_attempts).values(subject=subject, failures=1, last_at=now_us))
        else:
            failures = 1 if now_us - row.last_at > _FORGET_US else row.failures + 1
            tx.connection.execute(update(login_attempts).where(where).values(failures=failures, last_at=now_us))


def succeeded(tx: Transaction, name: str, address: str) -> None:
    """Forget the failures of this account; of the address only the one that was counted for this try."""
    shared = f"address {address}"
    own = [subject for subject in _subjects(name, address) if subject != shared]
    tx.connection.execute(delete(login_attempts).where(login_attempts.c.subject.in_(own)))
    one_less = update(login_attempts).where(login_attempts.c.subject == shared, login_attempts.c.failures > 0)
    tx.connection.execute(one_less.values(failures=login_attempts.c.failures - 1))


def _subjects(name: str | None, address: str) -> dict[str, _Rule]:
    if name is None:
        return {f"tokens {address}": _PAIR}
    return {f"pair {name} {address}": _PAIR, f"address {address}": _ADDRESS, f"account {name}": _ACCOUNT}
