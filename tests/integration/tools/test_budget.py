"""Caps hold together, in flight counted, whatever happens at once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone

from ringfence_audit.store import SqlStore
from ringfence_tools import budget
from ringfence_tools.budget import Exceeded, Unit


async def opened(store: SqlStore, scope: str, **caps: int) -> None:
    await store.write(lambda tx: budget.open_budget(tx, scope, {Unit(unit): cap for unit, cap in caps.items()}))


async def take(store: SqlStore, scopes: list[str], holder: str, amount: int = 1) -> Exceeded | None:
    return await store.write(lambda tx: budget.reserve(tx, scopes, {Unit.TOOL_CALLS: amount}, holder=holder))


async def test_fifty_at_once_never_pass_the_cap(store: SqlStore) -> None:
    await opened(store, "run:1", tool_calls=20)
    answers = await asyncio.gather(*(take(store, ["run:1"], f"h{n}") for n in range(50)))
    assert sum(answer is None for answer in answers) == 20
    usage = (await store.read(lambda connection: budget.usage(connection, "run:1")))[Unit.TOOL_CALLS]
    assert (usage.reserved, usage.spent) == (20, 0)


async def test_a_refusal_in_one_scope_reserves_nothing_in_another(store: SqlStore) -> None:
    await opened(store, "run:1", tool_calls=5)
    await opened(store, "team:a:2026-11", tool_calls=1)
    assert await take(store, ["run:1", "team:a:2026-11"], "h1") is None
    refused = await take(store, ["run:1", "team:a:2026-11"], "h2")
    assert refused is not None
    assert refused.scope == "team:a:2026-11"
    usage = (await store.read(lambda connection: budget.usage(connection, "run:1")))[Unit.TOOL_CALLS]
    assert usage.reserved == 1


async def test_the_same_holder_reserves_once(store: SqlStore) -> None:
    await opened(store, "run:1", tool_calls=5)
    assert await take(store, ["run:1"], "h1", 2) is None
    assert await take(store, ["run:1"], "h1", 2) is None
    usage = (await store.read(lambda connection: budget.usage(connection, "run:1")))[Unit.TOOL_CALLS]
    assert usage.reserved == 2


async def test_settling_gives_back_what_was_not_used_and_happens_once(store: SqlStore) -> None:
    await opened(store, "run:1", tool_calls=5)
    await take(store, ["run:1"], "h1", 4)
    for _ in range(2):
        await store.write(lambda tx: budget.settle(tx, "h1", {Unit.TOOL_CALLS: 1}))
    usage = (await store.read(lambda connection: budget.usage(connection, "run:1")))[Unit.TOOL_CALLS]
    assert (usage.reserved, usage.spent) == (0, 1)


async def test_a_unit_without_a_cap_is_not_held(store: SqlStore) -> None:
    await opened(store, "run:1", tokens=5)
    assert await take(store, ["run:1"], "h1", 1_000_000) is None


async def use(store: SqlStore, holder: str, amount: int) -> tuple[budget.Mark, ...]:
    assert await take(store, ["run:1"], holder, amount) is None
    return await store.write(lambda tx: budget.settle(tx, holder, {Unit.TOOL_CALLS: amount}))


async def test_what_is_in_flight_passes_no_mark(store: SqlStore) -> None:
    await opened(store, "run:1", tool_calls=10)
    assert await take(store, ["run:1"], "h1", 10) is None
    assert await store.write(lambda tx: budget.settle(tx, "h1", {Unit.TOOL_CALLS: 7})) == ()


async def test_four_fifths_are_told_once_with_an_entry(store: SqlStore) -> None:
    await opened(store, "run:1", tool_calls=10)
    assert await use(store, "r1/1/0", 7) == ()
    assert await use(store, "r1/2/0", 1) == (budget.Mark("run:1", Unit.TOOL_CALLS, 8, 10, 80),)
    assert await use(store, "r1/3/0", 2) == ()


async def test_a_refusal_tells_what_is_only_in_flight(store: SqlStore) -> None:
    await opened(store, "run:1", tool_calls=10)
    assert await take(store, ["run:1"], "h1", 8) is None
    refused = await take(store, ["run:1"], "h2", 3)
    assert refused is not None
    assert refused.is_in_flight
    await store.write(lambda tx: budget.settle(tx, "h1", {Unit.TOOL_CALLS: 8}))
    refused = await take(store, ["run:1"], "h2", 3)
    assert refused is not None
    assert not refused.is_in_flight


async def test_a_cap_that_a_person_changed_is_not_set_back(store: SqlStore) -> None:
    await opened(store, "team:a:2026-11", micro_usd=5)
    await store.write(lambda tx: budget.ensure_budget(tx, "team:a:2026-11", {Unit.MICRO_USD: 1, Unit.TOKENS: 9}))
    held = await store.read(lambda connection: budget.usage(connection, "team:a:2026-11"))
    assert (held[Unit.MICRO_USD].cap, held[Unit.TOKENS].cap) == (5, 9)


def test_a_month_ends_with_its_first_moment_of_the_next_in_utc() -> None:
    december = datetime(2026, 12, 31, 23, 30, tzinfo=timezone(timedelta(hours=-3)))
    assert budget.team_scope("shop", december) == "team:shop:2027-01"
    assert budget.next_month(december) == datetime(2027, 2, 1, tzinfo=UTC)
    assert budget.next_month(datetime(2026, 12, 5, tzinfo=UTC)) == datetime(2027, 1, 1, tzinfo=UTC)
