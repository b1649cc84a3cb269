"""The steps of a run: what its workspace held after each turn that could have changed it, as a patch by digest.

A retry, a fork, and the sandbox that replaces a lost one begin with the files of a step. A patch holds what the
deliverable would hold: what the repository ignores (build output, environments) is not in it and is made again by the
profile's setup commands.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select, update

from ringfence_agents.kept import Kept
from ringfence_agents.schema import kept_files, runs, steps
from ringfence_audit.port import Transaction
from ringfence_tools.calls import RunId
from ringfence_tools.clock import micros


@dataclass(frozen=True, slots=True)
class Step:
    """The files after one turn."""

    turn: int
    files: Kept


def store_step(tx: Transaction, run: RunId, step: Step) -> None:
    """Remember a step; the same turn's earlier one is replaced."""
    tx.connection.execute(delete(steps).where(steps.c.run == run, steps.c.turn == step.turn))
    tx.connection.execute(
        insert(steps).values(
            run=run,
            turn=step.turn,
            sha256=step.files.sha256,
            size_bytes=step.files.size_bytes,
            taken_at=micros(tx.now),
        )
    )


def last_step(connection: Connection, run: RunId, *, turn: int | None = None) -> Step | None:
    """The files as they were after `turn` (the latest turn): those of the last turn up to it that changed any."""
    query = select(steps).where(steps.c.run == run).order_by(steps.c.turn.desc()).limit(1)
    if turn is not None:
        query = query.where(steps.c.turn <= turn)
    row = connection.execute(query).first()
    return None if row is None else Step(row.turn, Kept(row.sha256, row.size_bytes))


def steps_of(connection: Connection, run: RunId) -> tuple[Step, ...]:
    rows = connection.execute(select(steps).where(steps.c.run == run).order_by(steps.c.turn))
    return tuple(Step(row.turn, Kept(row.sha256, row.size_bytes)) for row in rows)


def kept_of(connection: Connection, run: RunId) -> Kept | None:
    """The archive of the run's released sandbox."""
    row = connection.execute(select(kept_files).where(kept_files.c.run == run)).first()
    return None if row is None else Kept(row.sha256, row.size_bytes)


def remember_kept(tx: Transaction, run: RunId, kept: Kept) -> None:
    tx.connection.execute(delete(kept_files).where(kept_files.c.run == run))
    values = {"sha256": kept.sha256, "size_bytes": kept.size_bytes, "kept_at": micros(tx.now)}
    tx.connection.execute(insert(kept_files).values(run=run, **values))
    tx.connection.execute(update(runs).where(runs.c.id == run).values(sandbox_releases=runs.c.sandbox_releases + 1))
