"""Sealing a run that someone stopped: everything inside is stopped for good, then its files are kept, then it is ended.

The seal is an entry with the archive's digest and all that the run had touched outside, so that what a person looks at
afterwards is provably what stood there.
"""

from __future__ import annotations

import asyncio

from ringfence_agents.drive import Drive
from ringfence_agents.touched import touched
from ringfence_audit.events import Event, JsonValue, Kind
from ringfence_audit.port import Transaction
from ringfence_sandbox.errors import SandboxError


def begin_seal(drive: Drive) -> asyncio.Task[None]:
    """Seal the run, once; its calls in flight are ended afterwards."""
    if drive.sealing is None:
        drive.sealing = asyncio.get_running_loop().create_task(_seal(drive))
    return drive.sealing


async def _seal(drive: Drive) -> None:
    try:
        async with asyncio.timeout(drive.equipment.limits.closing_s):
            kept = await drive.holder.seal()
        data: dict[str, JsonValue] = {"archive": "no sandbox had been needed"}
        if kept is not None:
            data = {"archive": "sealed.tar", "sha256": kept.sha256, "size_bytes": kept.size_bytes}
    except (SandboxError, TimeoutError) as error:
        data = {"archive": f"could not be made: {type(error).__name__}: {error}"}
    finally:
        drive.switch.end_calls()
    reached = await drive.store.read(lambda connection: touched(connection, drive.run))
    record = drive.record
    event = Event(
        Kind.CONTROL,
        f"worker:{drive.lease.worker}",
        {"action": "sealed", **data, "touched": reached.to_json()},
        run=record.id,
        on_behalf_of=record.person,
    )

    def work(tx: Transaction) -> None:
        drive.context.guard(tx)
        tx.record(event)

    await drive.store.write(work)
