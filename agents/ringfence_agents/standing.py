"""Why a run stands where it stands, in one line for people: what it waits for, how many go before it, what is stuck.

Read from the tables alone, so that it is true whichever process moves the run, and also where none does.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from ringfence_agents.queue import Place, QueueLimits, places
from ringfence_agents.roster import present
from ringfence_agents.runs import RunRecord, RunState, WaitsFor
from ringfence_agents.schema import runs
from ringfence_tools.calls import RunId
from ringfence_tools.ledger import CallRow, CallState, calls_of_turn

STUCK_AFTER_S = 1800
"""A run that a worker holds and that has not made a step for so long is called stuck: longer than any tool may take."""


@dataclass(frozen=True, slots=True)
class Standing:
    """`ahead` is None where the run is not in the queue. `is_stuck`: it needs a person's eye."""

    why: str
    ahead: int | None = None
    is_stuck: bool = False


@dataclass(frozen=True, slots=True)
class _Facts:
    now_us: int
    places: dict[RunId, Place]
    worker_count: int


def standings(
    connection: Connection, records: tuple[RunRecord, ...], now_us: int, limits: QueueLimits
) -> dict[RunId, Standing]:
    """One for each of `records`."""
    facts = _Facts(now_us, places(connection, now_us, limits), len(present(connection, now_us)))
    return {record.id: _standing(connection, record, facts) for record in records}


def _standing(connection: Connection, record: RunRecord, facts: _Facts) -> Standing:
    if record.state.is_end:
        return Standing(record.detail)
    place = facts.places.get(record.id)
    if place is not None:
        return _queued(record, place, facts)
    if record.state is RunState.RUNNING:
        return _running(connection, record, facts)
    return _parked(record, facts)


def _queued(record: RunRecord, place: Place, facts: _Facts) -> Standing:
    parts = [record.detail] if record.detail else []
    if record.state is RunState.RUNNING:
        parts = [f"its worker {record.worker} is gone"]
    if not facts.worker_count:
        parts.append(f"no worker is there: start `ringfence worker`, or `ringfence runs resume {record.id}`")
    elif place.held_by:
        parts.append(place.held_by)
    parts.append(f"{place.ahead} ahead")
    return Standing("; ".join(parts), place.ahead, is_stuck=not facts.worker_count)


def _running(connection: Connection, record: RunRecord, facts: _Facts) -> Standing:
    moved_at = connection.execute(select(runs.c.moved_at).where(runs.c.id == record.id)).scalar_one()
    since_s = max(facts.now_us - moved_at, 0) // 1_000_000
    what = _phase(record, calls_of_turn(connection, record.id, record.turn))
    is_stuck = since_s >= STUCK_AFTER_S
    fix = f"; stuck? `ringfence runs pause {record.id}` and resume it" if is_stuck else ""
    return Standing(f"{what}, {since_s} s since its last step, by {record.worker}{fix}", is_stuck=is_stuck)


def _phase(record: RunRecord, rows: tuple[CallRow, ...]) -> str:
    if record.closing is not None:
        return "making the patch"
    if record.collected_turn == record.turn:
        return f"asks the model (turn {record.turn + 1})"
    acting = [row.tool for row in rows if row.state is CallState.INTENT]
    if acting:
        return f"runs {', '.join(acting)} (turn {record.turn})"
    return f"between the calls of turn {record.turn}" if rows else "begins"


def _parked(record: RunRecord, facts: _Facts) -> Standing:
    match record.waits_for:
        case WaitsFor.PAUSE:
            return Standing(
                f"{record.detail}; `ringfence runs resume {record.id}` goes on", is_stuck=record.failures > 0
            )
        case WaitsFor.BUDGET:
            return Standing(f"{record.detail}; raise it with `ringfence runs budget`")
        case _:
            return Standing(record.detail)
