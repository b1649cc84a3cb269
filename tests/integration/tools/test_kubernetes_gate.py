"""The `kubernetes` tools through the gate, over a real store: asked, granted, crashed, gone back to people."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from ringfence_audit.store import SqlStore
from ringfence_sandbox.kubernetes.agent_port import Right
from ringfence_sandbox.kubernetes.json_value import Json
from ringfence_tools import escalations, grants, review
from ringfence_tools.calls import Effect, GrantWidth, ResultStatus, Terms, ToolResult
from ringfence_tools.clock import micros
from ringfence_tools.escalations import Escalation, EscalationState
from ringfence_tools.gate_context import Settled, Waiting
from tests.fakes.agent_cluster import ClusterSandbox, FakeAccount
from tests.fakes.counting_sandbox import CountingSandbox, Crash
from tests.fakes.policy import FakePolicy
from tests.integration.tools.conftest import Clock
from tests.integration.tools.test_gate import ANA, RUN, Bench, Groups

READS = (Right("get", "", "configmaps"), Right("list", "", "configmaps"))
WRITES = (
    *READS,
    Right("create", "", "configmaps"),
    Right("patch", "", "configmaps"),
    Right("delete", "", "configmaps"),
)
ASKED = {f"{verb} /configmaps run/a": Effect.ESCALATE for verb in ("create", "patch", "delete", "get")}


def manifest(**data: str) -> dict[str, Json]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": dict(data)}


def applying(**data: str) -> str:
    return json.dumps({"manifest": json.dumps(manifest(**data))})


def make(store: SqlStore, *given: Right, effects: Mapping[str, Effect] = ASKED) -> tuple[Bench, FakeAccount]:
    account = FakeAccount(*given)
    bench = Bench(store, FakePolicy(effects=dict(effects)), ClusterSandbox(account), Groups())
    return bench, account


def opens(found: Escalation) -> str:
    lines = found.card["opens"]
    assert isinstance(lines, list)
    return "\n".join(map(str, lines))


async def approve(bench: Bench, found: Escalation, *, width: GrantWidth = "once") -> None:
    await bench.store.write(lambda tx: review.approve(tx, found.id, ANA, digest=found.digest, width=width))


async def again(bench: Bench, key: object) -> ToolResult | Escalation:
    step = await bench.gate.step(key, bench.context)  # type: ignore[arg-type] # a CallKey, as `waiting` gave it
    if isinstance(step, Settled):
        return step.result
    assert isinstance(step, Waiting)
    return await bench.store.read(lambda connection: escalations.get(connection, step.escalation))


async def test_a_change_that_nobody_approved_is_neither_made_nor_opened(store: SqlStore) -> None:
    bench, account = make(store)
    key, found = await bench.waiting("kubernetes_apply", applying(x="1"))
    await bench.store.write(lambda tx: review.deny(tx, found.id, ANA))
    result = await again(bench, key)
    assert isinstance(result, ToolResult)
    assert result.status is ResultStatus.DENIED
    assert (account.applied, account.every_held) == ([], [])


async def test_a_grant_that_the_cluster_itself_refuses_does_nothing_and_says_so(store: SqlStore) -> None:
    bench, account = make(store)
    key, found = await bench.waiting("kubernetes_apply", applying(x="1"))
    await approve(bench, found)
    account.refuses_grants = True
    result = await again(bench, key)
    assert isinstance(result, ToolResult)
    assert (result.status, account.applied) == (ResultStatus.FAILED, [])
    assert "cannot be granted on the cluster" in result.text


async def test_a_sandbox_that_is_on_no_cluster_is_told_so_before_people_are_asked(store: SqlStore) -> None:
    bench = Bench(store, FakePolicy(effects=ASKED), CountingSandbox(), Groups())
    result = await bench.result("kubernetes_apply", applying(x="1"))
    assert result.status is ResultStatus.INVALID
    assert "not on a cluster" in result.text


async def test_a_grant_for_one_call_stands_while_it_acts_and_then_no_more(store: SqlStore) -> None:
    bench, account = make(store)
    key, found = await bench.waiting("kubernetes_apply", applying(x="1"))
    assert "NOT DRY-RUN" in opens(found)
    await approve(bench, found)
    result = await again(bench, key)
    assert isinstance(result, ToolResult)
    assert result.status is ResultStatus.OK, result.text
    assert account.applied == [manifest(x="1")]
    during, after = account.every_held
    assert {(right.verb, right.name) for right in during[0].rights} == {("create", "a"), ("patch", "a"), ("get", "a")}
    assert after == ()


async def test_a_grant_for_the_task_stands_until_it_expires(store: SqlStore, clock: Clock) -> None:
    bench, account = make(store)
    key, found = await bench.waiting("kubernetes_apply", applying(x="1"))
    await approve(bench, found, width="task")
    assert isinstance(await again(bench, key), ToolResult)
    assert len(account.every_held[-1]) == 1
    assert (await bench.result("kubernetes_apply", applying(x="2"))).status is ResultStatus.OK
    clock.pass_time(Terms().ttl_s + 1)
    _, later = await bench.waiting("kubernetes_apply", applying(x="3"))
    assert later.state is EscalationState.OPEN
    bench.policy.effects = {}
    await bench.result("kubernetes_list", json.dumps({"resource": "configmaps"}))
    assert not account.every_held[-1]
    live = await store.read(lambda connection: grants.live(connection, RUN, micros(clock.now)))
    assert live == ()


async def test_what_changed_since_the_card_goes_back_to_people_and_nothing_is_done(store: SqlStore) -> None:
    bench, account = make(store, *WRITES)
    account.objects["configmaps", "a"] = manifest(x="1")
    key, found = await bench.waiting("kubernetes_apply", applying(x="2"))
    assert 'data.x: "1" → "2"' in opens(found)
    account.objects["configmaps", "a"] = manifest(x="1", y="precious")
    await approve(bench, found)
    second = await again(bench, key)
    assert isinstance(second, Escalation)
    assert account.applied == []
    assert 'data.y: "precious" → (none)' in opens(second)
    assert second.digest != found.digest
    await approve(bench, second)
    result = await again(bench, key)
    assert isinstance(result, ToolResult)
    assert (result.status, account.applied) == (ResultStatus.OK, [manifest(x="2")])
    outcomes = [event for event in await bench.entries() if event["kind"] == "call.outcome"]
    assert [outcome["data"]["status"] for outcome in outcomes] == ["failed", "ok"]  # type: ignore[index]


async def test_a_change_that_could_not_be_foreseen_is_shown_before_it_is_made(store: SqlStore) -> None:
    bench, account = make(store)
    account.objects["configmaps", "a"] = manifest(x="1")
    key, found = await bench.waiting("kubernetes_apply", applying(x="2"))
    assert "NOT DRY-RUN" in opens(found)
    await approve(bench, found)
    second = await again(bench, key)
    assert isinstance(second, Escalation)
    assert 'data.x: "1" → "2"' in opens(second)
    assert (account.applied, account.held) == ([], ())
    await approve(bench, second)
    result = await again(bench, key)
    assert isinstance(result, ToolResult)
    assert (result.status, account.applied) == (ResultStatus.OK, [manifest(x="2")])


async def test_a_worker_killed_while_a_granted_change_was_made_ends_with_one_change_and_no_grant(
    store: SqlStore,
) -> None:
    bench, account = make(store)
    key, found = await bench.waiting("kubernetes_apply", applying(x="1"))
    await approve(bench, found)
    account.crash = True
    with pytest.raises(Crash):
        await bench.gate.step(key, bench.context)
    result = await again(bench, key)
    assert isinstance(result, ToolResult)
    assert result.status is ResultStatus.OK, result.text
    assert account.objects == {("configmaps", "a"): manifest(x="1")}
    assert account.held == ()
    assert (await bench.kinds()).count("call.outcome") == 1


async def test_an_object_that_was_replaced_since_the_card_is_not_deleted(store: SqlStore) -> None:
    bench, account = make(store, *WRITES)

    def with_uid(uid: str) -> dict[str, Json]:
        return {**manifest(), "metadata": {"name": "a", "uid": uid}}

    account.objects["configmaps", "a"] = with_uid("one")
    bench.policy.effects = {"delete /configmaps run/a": Effect.ESCALATE}
    asked = json.dumps({"resource": "configmaps", "name": "a"})
    key, found = await bench.waiting("kubernetes_delete", asked)
    assert "uid one" in opens(found)
    account.objects["configmaps", "a"] = with_uid("two")
    await approve(bench, found)
    second = await again(bench, key)
    assert isinstance(second, Escalation)
    assert (account.deleted, "uid two" in opens(second)) == ([], True)
    await approve(bench, second)
    assert isinstance(await again(bench, key), ToolResult)
    assert account.deleted == ["a"]


async def test_a_read_that_is_asked_says_what_its_account_may_already(store: SqlStore) -> None:
    bench, account = make(store, Right("list", "", "pods"))
    account.objects["configmaps", "a"] = manifest(x="1")
    key, found = await bench.waiting("kubernetes_get", json.dumps({"resource": "configmaps", "name": "a"}))
    assert "its account may already: list pods" in opens(found)
    await approve(bench, found)
    result = await again(bench, key)
    assert isinstance(result, ToolResult)
    assert (result.status, "x: '1'" in result.text) == (ResultStatus.OK, True)
    assert account.held == ()
