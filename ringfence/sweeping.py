"""Removes what a crash left on a cluster: sandboxes of this installation that no run in the database still needs.

A sandbox's name is stored before it is built, so one that was listed and then is in no run's row belongs to nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Protocol

from sqlalchemy import Connection, select

from ringfence_agents.schema import runs
from ringfence_audit.errors import LogUnavailable
from ringfence_audit.events import Event, Kind
from ringfence_audit.port import Store, Transaction
from ringfence_sandbox.contract import SandboxId
from ringfence_sandbox.errors import SandboxError
from ringfence_tools.clock import micros
from ringfence_tools.schema import grants

EVERY_S = 60.0


class Sweepable(Protocol):
    """A backend whose sandboxes outlive every process of ours."""

    async def sandboxes(self) -> frozenset[SandboxId]: ...

    async def destroy(self, sandbox: SandboxId) -> None: ...

    async def grants(self) -> Mapping[str, str]:
        """What grants opened there and still stands: where → the grant's id."""

    async def end_grant(self, where: str) -> None: ...


def needed(connection: Connection) -> frozenset[SandboxId]:
    """The sandboxes of runs that have not ended."""
    query = select(runs.c.sandbox_id).where(runs.c.ended_at.is_(None), runs.c.sandbox_id != "")
    return frozenset(SandboxId(row.sandbox_id) for row in connection.execute(query))


async def sweep(store: Store, backend: Sweepable) -> frozenset[SandboxId]:
    """Destroy what is there and not needed; return it. An entry precedes each.

    What is there is listed first: a run that starts meanwhile is in the database before it is on the cluster.
    """
    found = await backend.sandboxes()
    left = found - await store.read(needed)
    for sandbox in sorted(left):
        event = Event(Kind.SANDBOX, "system:sweeper", {"action": "swept", "sandbox": sandbox})
        await store.write(lambda tx, event=event: tx.record(event))  # type: ignore[misc] # the loop's own value
        await backend.destroy(sandbox)
    await _end_grants(store, backend)
    return left


async def _end_grants(store: Store, backend: Sweepable) -> None:
    """What a grant opened goes when it has expired or was revoked, also where its worker was killed."""
    standing = await backend.grants()
    live = await store.write(_live_grants) if standing else frozenset()
    for where, grant in sorted(standing.items()):
        if grant not in live:
            event = Event(Kind.SANDBOX, "system:sweeper", {"action": "grant ended", "grant": grant, "where": where})
            await store.write(lambda tx, event=event: tx.record(event))  # type: ignore[misc] # the loop's own value
            await backend.end_grant(where)


def _live_grants(tx: Transaction) -> frozenset[str]:
    """By the database's clock."""
    query = select(grants.c.id).where(grants.c.revoked_at.is_(None), grants.c.expires_at > micros(tx.now))
    return frozenset(row.id for row in tx.connection.execute(query))


async def keep_swept(store: Store, backend: Sweepable) -> None:
    """Sweep now and then until cancelled. What fails is logged, and tried again."""
    while True:
        try:
            await sweep(store, backend)
        except (SandboxError, LogUnavailable) as error:
            logging.getLogger("ringfence.sweeping").warning("sweeping failed, to be tried again: %s", error)
        await asyncio.sleep(EVERY_S)
