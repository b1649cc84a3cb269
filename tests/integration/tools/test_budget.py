"""Caps hold together, in flight counted, whatever happens at once."""

from __future__ import annotations

import asyncio

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
