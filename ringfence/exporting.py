"""An answer taken away as evidence: recorded in the log, sealed by a checkpoint, written with its proofs.

The form of the file is `ringfence_audit.export`'s; `ringfence-verify` checks it anywhere.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from ringfence.errors import Mistake, Unavailable
from ringfence.searching import every, open_index
from ringfence.settings import Settings
from ringfence_audit import export
from ringfence_audit.errors import EntryNotFound
from ringfence_audit.query import Filter
from ringfence_audit.store import SqlStore


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: entries of the answer, and the signed checkpoint they are proved to."""

    path: Path
    entries: int
    checkpoint: str


def export_answer(
    store: SqlStore,
    wanted: Filter,
    out: Path,
    *,
    actor: str,
    since: Sequence[str] = (),
    settings: Settings | None = None,
) -> Exported:
    """Write the answer to `out`, which must not exist, and appears whole or not at all. With `settings` it is found
    through this machine's index, otherwise by reading every entry. Raises `Mistake`."""
    if out.exists():
        raise Mistake(f"{out} exists already", fix="Name a file that does not exist")
    try:
        found = None if settings is None else _found(settings, store, wanted)
        settled = store.read_now(lambda connection: export.answer(connection, wanted, found=found))
    except EntryNotFound as error:
        raise Mistake("the log holds nothing like that", fix="Try the question with `ringfence audit query`") from error
    return write_export(store, settled, out, actor=actor, since=since)


def write_export(
    store: SqlStore, settled: export.Answer, out: Path, *, actor: str, since: Sequence[str] = ()
) -> Exported:
    """Record a settled answer in the log, seal it, and write it with its proofs."""
    asyncio.run(store.write(lambda tx: tx.record(export.statement(settled, actor))))
    note = asyncio.run(store.checkpoint())
    if note is None:
        raise Unavailable("the log has no checkpoint", fix="Run `ringfence audit verify`")
    part = out.with_name(f".{out.name}.{os.getpid()}")

    def write(connection: Connection) -> None:
        with part.open("xb") as file:
            file.writelines(export.lines(connection, settled, note, blobs=store.blobs, since=since))

    try:
        store.read_now(write)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return Exported(out, len(settled.positions), note)


def _found(settings: Settings, store: SqlStore, wanted: Filter) -> list[int]:
    with open_index(settings, store) as index:
        return [entry.position for entry in every(index, store, wanted)]
