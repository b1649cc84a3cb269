"""Grants: what an approval opened, for how long, how often; taken by one conditional update, revoked at any time.

A grant answers an *escalate*, never a *forbid*. One that belongs to a call (`call` is set) holds only while that call
acts, and is how "approve once" reaches the egress proxy. Expiry is judged by the database's clock.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Row, insert, select, update

from ringfence_audit.events import Event, JsonValue, Kind
from ringfence_audit.port import Transaction
from ringfence_tools.calls import Access, CallKey, EscalationId, Family, GrantId, GrantWidth, RunId
from ringfence_tools.clock import micros
from ringfence_tools.digest import access_json
from ringfence_tools.errors import NotFound
from ringfence_tools.schema import grants


@dataclass(frozen=True, slots=True)
class Grant:
    id: GrantId
    run: RunId
    call: str
    """The one call that it belongs to, or "" for every call of the run."""
    tool: str
    accesses: tuple[Access, ...]
    width: GrantWidth
    uses_left: int | None
    expires_at: int
    revoked_at: int | None
    given_by: str
    escalation: EscalationId

    def is_live(self, now_us: int) -> bool:
        return self.revoked_at is None and self.expires_at > now_us and self.uses_left != 0

    def covers(self, access: Access) -> bool:
        """Whether this grant opens the access: the same resource, and nothing that the approved one did not do."""
        return any(_covers(granted, access) for granted in self.accesses)


def give(
    tx: Transaction,
    *,
    run: RunId,
    call: str,
    tool: str,
    accesses: Sequence[Access],
    width: GrantWidth,
    uses: int | None,
    expires_at: int,
    given_by: str,
    escalation: EscalationId,
) -> GrantId:
    """Write a grant and its entry. `expires_at` in microseconds."""
    grant = GrantId(f"g-{secrets.token_hex(6)}")
    rows = [access_json(access) for access in accesses]
    tx.connection.execute(
        insert(grants).values(
            id=grant,
            run=run,
            call=call,
            tool=tool,
            accesses=json.dumps(rows),
            width=width,
            uses_left=uses,
            expires_at=expires_at,
            given_by=given_by,
            escalation=escalation,
        )
    )
    data: dict[str, JsonValue] = {
        "grant": grant,
        "tool": tool,
        "accesses": rows,
        "width": width,
        "uses": uses,
        "expires_at": expires_at,
        "escalation": escalation,
    }
    tx.record(Event(Kind.GRANT_GIVEN, given_by, data, run=run, call=call))
    return grant


def live(connection: Connection, run: RunId, now_us: int, *, is_use_needed: bool = True) -> tuple[Grant, ...]:
    """Grants that hold now; those whose last use was taken only where no further use is needed."""
    query = select(grants).where(
        grants.c.run == run,
        grants.c.revoked_at.is_(None),
        grants.c.expires_at > now_us,
    )
    if is_use_needed:
        query = query.where((grants.c.uses_left.is_(None)) | (grants.c.uses_left > 0))
    return tuple(_grant(row) for row in connection.execute(query))


def every(connection: Connection, *, run: RunId | None = None) -> tuple[Grant, ...]:
    """All grants, also ended ones, newest expiry first."""
    query = select(grants).order_by(grants.c.expires_at.desc())
    return tuple(_grant(row) for row in connection.execute(query if run is None else query.where(grants.c.run == run)))


def by_ids(connection: Connection, ids: Sequence[str]) -> tuple[Grant, ...]:
    """Those of these that there are, by id."""
    query = select(grants).where(grants.c.id.in_(ids)).order_by(grants.c.id)
    return tuple(_grant(row) for row in connection.execute(query)) if ids else ()


def take(
    tx: Transaction, run: RunId, accesses: Sequence[Access], *, call: CallKey | None
) -> tuple[GrantId, ...] | None:
    """Take one use of a grant for every access, or none at all and return None. Records each use.

    A grant of one call counts for that call; with no `call` (the proxy, which sees connections and not calls) for as
    long as its call acts, since it ends with it.
    """
    now_us = micros(tx.now)
    chosen: dict[GrantId, Grant] = {}
    candidates = [grant for grant in live(tx.connection, run, now_us) if call is None or grant.call in ("", str(call))]
    for access in accesses:
        grant = next((grant for grant in candidates if grant.covers(access)), None)
        if grant is None:
            return None
        chosen[grant.id] = grant
    taken = tx.connection.begin_nested()
    for grant in chosen.values():
        if not _take_one(tx, grant, now_us):
            taken.rollback()
            return None
    taken.commit()
    for grant in chosen.values():
        data: dict[str, JsonValue] = {"grant": grant.id, "escalation": grant.escalation, "uses_left": _after(grant)}
        tx.record(Event(Kind.GRANT_USED, f"agent:{run}", data, run=run, call=str(call or "")))
    return tuple(chosen)


def revoke(tx: Transaction, grant: GrantId, *, by: str) -> None:
    """End a grant now. Raises `NotFound` where none is live by this id."""
    where = (grants.c.id == grant) & grants.c.revoked_at.is_(None)
    row = tx.connection.execute(select(grants).where(where)).first()
    if row is None:
        raise NotFound(f"no live grant {grant}; list them with `ringfence grants list`")
    tx.connection.execute(update(grants).where(where).values(revoked_at=micros(tx.now), revoked_by=by))
    tx.record(Event(Kind.GRANT_REVOKED, by, {"grant": grant}, run=row.run, call=row.call))


def end_of_call(tx: Transaction, key: CallKey) -> None:
    """What was opened for one call only closes with it."""
    where = (grants.c.run == key.run) & (grants.c.call == str(key)) & grants.c.revoked_at.is_(None)
    tx.connection.execute(update(grants).where(where).values(revoked_at=micros(tx.now), revoked_by="end of call"))


def end_of_run(tx: Transaction, run: RunId, *, by: str) -> None:
    """Nothing that a run was granted outlives it."""
    for grant in live(tx.connection, run, micros(tx.now)):
        revoke(tx, grant.id, by=by)


def granted_paths(connection: Connection, run: RunId, now_us: int) -> tuple[str, ...]:
    """Paths of the machine that live grants show to the run, read-only."""
    return tuple(
        sorted(
            {
                access.resource
                for grant in live(connection, run, now_us)
                for access in grant.accesses
                if access.family is Family.FILES and access.attributes.get("outside")
            }
        )
    )


def _take_one(tx: Transaction, grant: Grant, now_us: int) -> bool:
    where = (grants.c.id == grant.id) & grants.c.revoked_at.is_(None) & (grants.c.expires_at > now_us)
    if grant.uses_left is None:
        return tx.connection.execute(select(grants.c.id).where(where)).first() is not None
    where &= grants.c.uses_left > 0
    return bool(tx.connection.execute(update(grants).where(where).values(uses_left=grants.c.uses_left - 1)).rowcount)


def _after(grant: Grant) -> int | None:
    return None if grant.uses_left is None else grant.uses_left - 1


def _covers(granted: Access, access: Access) -> bool:
    if granted.family is not access.family or granted.resource != access.resource:
        return False
    if access.family is Family.NETWORK:
        opens_all = granted.attributes.get("method") == "CONNECT" and not access.attributes.get("sends")
        same_method = granted.attributes.get("method") == access.attributes.get("method")
        may_send = bool(granted.attributes.get("sends")) or not access.attributes.get("sends")
        return may_send and (opens_all or same_method or access.attributes.get("method") == "CONNECT")
    if access.family is Family.FILES:
        return bool(granted.attributes.get("write")) or not access.attributes.get("write")
    return True


def _grant(row: Row[tuple[object, ...]]) -> Grant:
    return Grant(
        id=GrantId(row.id),
        run=RunId(row.run),
        call=row.call,
        tool=row.tool,
        accesses=accesses_from_json(row.accesses),
        width=row.width,
        uses_left=row.uses_left,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        given_by=row.given_by,
        escalation=EscalationId(row.escalation),
    )


def accesses_from_json(text: str) -> tuple[Access, ...]:
    return tuple(Access(Family(item["family"]), item["resource"], item["attributes"]) for item in json.loads(text))
