"""The order of a turn: which calls may start now."""

from __future__ import annotations

from ringfence_audit.store import SqlStore
from ringfence_tools import ledger
from ringfence_tools.calls import CallKey, EscalationId, ResultStatus, RunId, ToolResult
from ringfence_tools.ledger import Proposal

RUN = RunId("run-1")
OK = ToolResult(ResultStatus.OK, "fine")


async def proposed(store: SqlStore, *tools: str) -> tuple[CallKey, ...]:
    proposals = [Proposal("call_0", tool, "{}") for tool in tools]
    rows = await store.write(
        lambda tx: ledger.propose(tx, RUN, 1, proposals, is_read_only=lambda tool: tool.startswith("read"))
    )
    return tuple(row.key for row in rows)


async def indexes(store: SqlStore, now_us: int = 0) -> list[int]:
    keys = await store.read(lambda connection: ledger.startable(connection, RUN, 1, now_us))
    return [key.index for key in keys]


async def test_a_write_behind_a_write_does_not_start(store: SqlStore) -> None:
    await proposed(store, "write", "write")
    assert await indexes(store) == [0]


async def test_only_reads_overlap_and_a_write_waits_for_them(store: SqlStore) -> None:
    await proposed(store, "read", "read", "write", "read")
    assert await indexes(store) == [0, 1]


async def test_behind_a_waiting_call_only_reads_start(store: SqlStore) -> None:
    first, *_ = await proposed(store, "write", "read", "write", "read")
    row = await store.read(lambda connection: ledger.call(connection, first))
    assert row is not None
    await store.write(lambda tx: ledger.to_waiting(tx, row, digest="d", sealed={}, escalation=EscalationId(7)))
    # Escalation 7 does not exist, so nobody has settled it: the call is not due.
    assert await indexes(store) == [1]


async def test_model_ids_that_repeat_within_a_turn_are_different_calls(store: SqlStore) -> None:
    keys = await proposed(store, "write", "write")
    assert len(set(keys)) == 2
    rows = await store.read(lambda connection: ledger.calls_of_turn(connection, RUN, 1))
    assert len({row.nonce for row in rows}) == 2


async def test_a_settled_call_lets_the_next_one_start(store: SqlStore) -> None:
    first, second = await proposed(store, "write", "write")
    row = await store.read(lambda connection: ledger.call(connection, first))
    assert row is not None
    await store.write(lambda tx: ledger.to_done(tx, row, OK))
    assert await indexes(store) == [second.index]
    again = await store.read(lambda connection: ledger.call(connection, first))
    assert again is not None
    assert again.result == OK


async def test_a_row_that_moved_on_is_not_moved_again(store: SqlStore) -> None:
    first, _ = await proposed(store, "write", "write")
    row = await store.read(lambda connection: ledger.call(connection, first))
    assert row is not None
    await store.write(lambda tx: ledger.to_done(tx, row, OK))
    try:
        await store.write(lambda tx: ledger.to_done(tx, row, ToolResult(ResultStatus.FAILED, "second")))
    except ledger.CallMoved:
        return
    raise AssertionError("a stale row was moved")
