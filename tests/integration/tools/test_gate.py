"""The gate over a real store: what it refuses, what it runs once, what people decide."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import orjson
import pytest

from ringfence_audit import tables
from ringfence_audit.errors import LogUnavailable
from ringfence_audit.port import Transaction
from ringfence_audit.store import SqlStore
from ringfence_sandbox.contract import ChangedFile, Exec
from ringfence_tools import budget, escalations, grants, ledger, review
from ringfence_tools.budget import Unit
from ringfence_tools.builtin.toolset import builtin_toolbox
from ringfence_tools.calls import Access, CallKey, Effect, EscalationId, Family, ResultStatus, RunId, Terms, ToolResult
from ringfence_tools.clock import micros
from ringfence_tools.errors import EscalationClosed, LeaseLost, NotAllowedToVote
from ringfence_tools.escalations import EscalationState
from ringfence_tools.gate import Gate
from ringfence_tools.gate_context import RunContext, Settled, Waiting
from ringfence_tools.ledger import Proposal
from ringfence_tools.people import Person
from ringfence_tools.progress import ignore
from tests.fakes.counting_sandbox import CountingSandbox, Crash
from tests.fakes.policy import FakePolicy
from tests.integration.tools.conftest import Clock

RUN = RunId("run-1")
ASK = {"url.example:443": Effect.ESCALATE, "curl https://url.example/": Effect.ESCALATE}
CURL = json.dumps({"command": "curl https://url.example/"})
ANA, BEN = Person("ana", frozenset({"owner"})), Person("ben", frozenset({"owner"}))


@dataclass
class Groups:
    held: dict[str, frozenset[str]] = field(
        default_factory=lambda: {"ana": frozenset({"owner"}), "ben": frozenset({"owner"})}
    )
    team: str = ""

    def groups_of(self, name: str, *, team: str) -> frozenset[str]:
        return self.held.get(name, frozenset()) if team == self.team else frozenset()


@dataclass
class Bench:
    store: SqlStore
    policy: FakePolicy
    sandbox: CountingSandbox
    directory: Groups
    turn: int = 0
    lease_is_lost: bool = False

    @property
    def gate(self) -> Gate:
        return Gate(self.store, self.policy, builtin_toolbox(), self.directory)

    @property
    def context(self) -> RunContext:
        async def sandbox() -> CountingSandbox:
            return self.sandbox

        return RunContext(RUN, f"agent:{RUN}", "ana", 1, self._guard, sandbox, ignore)

    def _guard(self, tx: Transaction) -> None:
        if self.lease_is_lost:
            raise LeaseLost("another worker has this run")

    async def call(self, tool: str, arguments: str, model_id: str = "call_0") -> CallKey:
        self.turn += 1
        turn = self.turn
        toolbox = builtin_toolbox()
        proposal = Proposal(model_id, tool, arguments)
        rows = await self.store.write(
            lambda tx: ledger.propose(tx, RUN, turn, [proposal], is_read_only=toolbox.is_read_only)
        )
        return rows[0].key

    async def step(self, key: CallKey) -> ToolResult | EscalationId:
        step = await self.gate.step(key, self.context)
        return step.result if isinstance(step, Settled) else step.escalation

    async def result(self, tool: str, arguments: str) -> ToolResult:
        step = await self.step(await self.call(tool, arguments))
        assert isinstance(step, ToolResult)
        return step

    async def waiting(self, tool: str, arguments: str) -> tuple[CallKey, escalations.Escalation]:
        key = await self.call(tool, arguments)
        step = await self.gate.step(key, self.context)
        assert isinstance(step, Waiting)
        return key, await self.store.read(lambda connection: escalations.get(connection, step.escalation))

    async def entries(self) -> list[dict[str, object]]:
        query = tables.entries.select().order_by(tables.entries.c.position)
        rows = await self.store.read(lambda connection: connection.execute(query).all())
        return [orjson.loads(row.entry)["event"] for row in rows]

    async def kinds(self) -> list[object]:
        return [event["kind"] for event in await self.entries()]


@pytest.fixture
def bench(store: SqlStore) -> Bench:
    return Bench(store, FakePolicy(), CountingSandbox(), Groups())


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("no_such_tool", "{}"),
        ("shell", "{broken"),
        ("shell", "[]"),
        ("shell", '{"command": 3}'),
        ("shell", '{"command": "true", "sudo": true}'),
        ("shell", '{"command": "\\ud800"}'),
        ("shell", "[" * 5000),
        ("write_file", '{"path": "x\\u0000y", "content": ""}'),
    ],
)
async def test_a_malformed_call_is_told_to_the_model_and_nothing_runs(bench: Bench, tool: str, arguments: str) -> None:
    result = await bench.result(tool, arguments)
    assert result.status in (ResultStatus.INVALID, ResultStatus.FAILED)
    assert bench.sandbox.effects == []


async def test_a_forbidden_call_never_reaches_the_sandbox_and_names_its_rule(bench: Bench) -> None:
    bench.policy.effects = {"rm -rf /": Effect.FORBID}
    result = await bench.result("shell", json.dumps({"command": "rm -rf /"}))
    assert result.status is ResultStatus.FORBIDDEN
    refusal = json.loads(result.text)
    assert (refusal["rules"], refusal["instead"]) == (["fake"], "go another way")
    assert bench.sandbox.effects == []
    assert await bench.kinds() == ["call.decision", "call.outcome"]


async def test_when_the_log_cannot_be_written_nothing_runs(bench: Bench) -> None:
    key = await bench.call("shell", json.dumps({"command": "true"}))

    class Unwritable:
        def __init__(self, store: SqlStore) -> None:
            self.read = store.read

        async def write(self, work: object) -> None:
            raise LogUnavailable("disk full")

    gate = Gate(Unwritable(bench.store), bench.policy, builtin_toolbox(), bench.directory)  # type: ignore[arg-type]
    with pytest.raises(LogUnavailable):
        await gate.step(key, bench.context)
    assert bench.sandbox.effects == []


async def test_a_worker_that_lost_its_lease_writes_and_runs_nothing(bench: Bench) -> None:
    key = await bench.call("shell", json.dumps({"command": "true"}))
    bench.lease_is_lost = True
    with pytest.raises(LeaseLost):
        await bench.step(key)
    assert bench.sandbox.effects == []
    assert await bench.entries() == []


async def test_a_call_beyond_the_budget_is_refused(bench: Bench) -> None:
    await bench.store.write(lambda tx: budget.open_budget(tx, f"run:{RUN}", {Unit.TOOL_CALLS: 1}))
    assert (await bench.result("shell", json.dumps({"command": "true"}))).status is ResultStatus.OK
    assert (await bench.result("shell", json.dumps({"command": "true"}))).status is ResultStatus.BUDGET
    assert len(bench.sandbox.effects) == 1


# -- allowed, exactly once -------------------------------------------------------------------------------------------


async def test_an_allowed_call_has_its_intent_before_and_its_outcome_after(bench: Bench) -> None:
    result = await bench.result("shell", json.dumps({"command": "echo hi"}))
    assert (result.status, result.text) == (ResultStatus.OK, "echo hi")
    intent, outcome = await bench.entries()
    assert (intent["kind"], outcome["kind"]) == ("call.intent", "call.outcome")
    assert bench.sandbox.acknowledged == set(bench.sandbox.outcomes)


async def test_a_replayed_call_returns_its_stored_outcome(bench: Bench) -> None:
    key = await bench.call("shell", json.dumps({"command": "echo hi"}))
    first = await bench.step(key)
    assert await bench.step(key) == first
    assert len(bench.sandbox.effects) == 1


async def test_model_ids_that_repeat_across_turns_run_each_call(bench: Bench) -> None:
    for _ in range(3):
        await bench.step(await bench.call("shell", json.dumps({"command": "echo hi"}), model_id="call_0"))
    assert len(bench.sandbox.effects) == 3


@pytest.mark.parametrize(("crash", "effects"), [("before", 1), ("after", 1)])
async def test_a_crash_around_the_effect_doubles_and_loses_nothing(bench: Bench, crash: str, effects: int) -> None:
    key = await bench.call("edit_file", json.dumps({"path": "a.txt", "old": "one", "new": "two"}))
    bench.sandbox.files["/workspace/a.txt"] = b"one"
    bench.sandbox.crash = "before" if crash == "before" else "after"
    with pytest.raises(Crash):
        await bench.step(key)
    result = await bench.step(key)
    assert isinstance(result, ToolResult)
    assert result.status is ResultStatus.OK
    assert bench.sandbox.files["/workspace/a.txt"] == b"two"
    assert len(bench.sandbox.effects) == effects
    assert await bench.kinds() == ["call.intent", "call.outcome"]


async def test_an_intent_whose_sandbox_is_gone_becomes_unknown(bench: Bench) -> None:
    key = await bench.call("shell", json.dumps({"command": "echo hi"}))
    bench.sandbox.crash = "after"
    with pytest.raises(Crash):
        await bench.step(key)
    bench.sandbox.is_gone = True
    result = await bench.step(key)
    assert isinstance(result, ToolResult)
    assert result.status is ResultStatus.UNKNOWN


@pytest.mark.parametrize(("crash", "status"), [("before", ResultStatus.FAILED), ("after", ResultStatus.OK)])
async def test_ending_a_run_asks_what_became_of_an_intent_and_starts_nothing(
    bench: Bench, crash: str, status: ResultStatus
) -> None:
    key = await bench.call("shell", json.dumps({"command": "echo hi"}))
    bench.sandbox.crash = "before" if crash == "before" else "after"
    with pytest.raises(Crash):
        await bench.step(key)
    before = len(bench.sandbox.effects)
    step = await bench.gate.step(key, replace(bench.context, is_ending=True))
    assert isinstance(step, Settled)
    assert step.result.status is status
    assert len(bench.sandbox.effects) == before


# -- people ----------------------------------------------------------------------------------------------------------


async def test_an_escalated_call_waits_and_runs_only_after_approval_once(bench: Bench) -> None:
    bench.policy.effects = ASK
    key, waiting = await bench.waiting("shell", CURL)
    assert bench.sandbox.effects == []
    assert await bench.step(key) == waiting.id
    await bench.store.write(lambda tx: review.approve(tx, waiting.id, ANA, digest=waiting.digest))
    result = await bench.step(key)
    assert isinstance(result, ToolResult)
    assert result.status is ResultStatus.OK
    assert len(bench.sandbox.effects) == 1
    settled = await bench.store.read(lambda connection: escalations.get(connection, waiting.id))
    assert settled.state is EscalationState.CONSUMED
    again = await bench.call("shell", CURL)
    assert isinstance(await bench.step(again), int)


async def test_a_vote_on_other_bytes_is_refused(bench: Bench) -> None:
    bench.policy.effects = ASK
    _, waiting = await bench.waiting("shell", CURL)
    with pytest.raises(EscalationClosed):
        await bench.store.write(lambda tx: review.approve(tx, waiting.id, ANA, digest="0" * 64))


async def test_a_person_outside_the_group_cannot_approve(bench: Bench) -> None:
    bench.policy.effects = ASK
    _, waiting = await bench.waiting("shell", CURL)
    stranger = Person("eve", frozenset({"visitors"}))
    with pytest.raises(NotAllowedToVote):
        await bench.store.write(lambda tx: review.approve(tx, waiting.id, stranger, digest=waiting.digest))


async def test_four_eyes_bars_the_requester(bench: Bench) -> None:
    bench.policy.effects = ASK
    bench.policy.terms = Terms(any_of=("owner",), four_eyes=True)
    key, waiting = await bench.waiting("shell", CURL)
    with pytest.raises(NotAllowedToVote):
        await bench.store.write(lambda tx: review.approve(tx, waiting.id, ANA, digest=waiting.digest))
    await bench.store.write(lambda tx: review.approve(tx, waiting.id, BEN, digest=waiting.digest))
    assert isinstance(await bench.step(key), ToolResult)


async def test_all_groups_must_approve(bench: Bench) -> None:
    bench.policy.effects = ASK
    bench.policy.terms = Terms(all_of=("team-lead", "security"))
    bench.directory.held = {"lea": frozenset({"team-lead"}), "sam": frozenset({"security"})}
    key, waiting = await bench.waiting("shell", CURL)
    lea, sam = (Person(name, groups) for name, groups in bench.directory.held.items())
    await bench.store.write(lambda tx: review.approve(tx, waiting.id, lea, digest=waiting.digest))
    assert await bench.step(key) == waiting.id
    with pytest.raises(EscalationClosed):
        await bench.store.write(lambda tx: review.approve(tx, waiting.id, lea, digest=waiting.digest))
    await bench.store.write(lambda tx: review.approve(tx, waiting.id, sam, digest=waiting.digest))
    assert isinstance(await bench.step(key), ToolResult)


async def test_silence_denies(bench: Bench, clock: Clock) -> None:
    bench.policy.effects = ASK
    key, waiting = await bench.waiting("shell", CURL)
    clock.pass_time(waiting.terms.ttl_s + 1)
    with pytest.raises(EscalationClosed):
        await bench.store.write(lambda tx: review.approve(tx, waiting.id, ANA, digest=waiting.digest))
    result = await bench.step(key)
    assert isinstance(result, ToolResult)
    assert result.status is ResultStatus.DENIED
    assert bench.sandbox.effects == []


async def test_an_approval_that_was_not_used_in_time_denies(bench: Bench, clock: Clock) -> None:
    bench.policy.effects = ASK
    key, waiting = await bench.waiting("shell", CURL)
    await bench.store.write(lambda tx: review.approve(tx, waiting.id, ANA, digest=waiting.digest))
    clock.pass_time(waiting.terms.ttl_s + 1)
    result = await bench.step(key)
    assert isinstance(result, ToolResult)
    assert result.status is ResultStatus.DENIED
    assert bench.sandbox.effects == []


async def test_a_deny_is_state_and_repeating_it_ends_the_run(bench: Bench) -> None:
    bench.policy.effects = ASK
    key, waiting = await bench.waiting("shell", CURL)
    await bench.store.write(lambda tx: review.deny(tx, waiting.id, ANA, guidance="use the fixture"))
    denied = await bench.step(key)
    assert isinstance(denied, ToolResult)
    assert "use the fixture" in denied.text
    later = [await bench.result("shell", CURL) for _ in range(3)]
    assert [result.status for result in later] == [ResultStatus.DENIED] * 3
    assert ["blocked" in result.data for result in later] == [False, False, True]
    cards = await bench.store.read(lambda connection: escalations.of_run(connection, RUN))
    assert len(cards) == 1


async def test_a_changed_policy_that_forbids_beats_an_approval(bench: Bench) -> None:
    bench.policy.effects = ASK
    key, waiting = await bench.waiting("shell", CURL)
    await bench.store.write(lambda tx: review.approve(tx, waiting.id, ANA, digest=waiting.digest))
    bench.policy.effects = dict.fromkeys(ASK, Effect.FORBID)
    result = await bench.step(key)
    assert isinstance(result, ToolResult)
    assert result.status is ResultStatus.FORBIDDEN
    assert bench.sandbox.effects == []


async def test_an_approver_who_lost_the_group_no_longer_counts(bench: Bench) -> None:
    bench.policy.effects = ASK
    key, waiting = await bench.waiting("shell", CURL)
    await bench.store.write(lambda tx: review.approve(tx, waiting.id, ANA, digest=waiting.digest))
    bench.directory.held = {}
    step = await bench.step(key)
    assert isinstance(step, int)
    assert step != waiting.id
    assert bench.sandbox.effects == []


async def test_a_group_that_an_approver_holds_in_another_team_does_not_count(bench: Bench) -> None:
    bench.policy.effects = ASK
    key, waiting = await bench.waiting("shell", CURL)
    await bench.store.write(lambda tx: review.approve(tx, waiting.id, ANA, digest=waiting.digest))
    bench.directory.team = "billing"
    step = await bench.step(key)
    assert isinstance(step, int)
    assert step != waiting.id
    assert bench.sandbox.effects == []


async def test_a_script_rewritten_after_the_approval_does_not_run(bench: Bench) -> None:
    bench.policy.effects = ASK
    script = b"print('harmless')"
    bench.sandbox.files["/workspace/sync.py"] = script
    bench.sandbox.changes = [ChangedFile("sync.py", "added", hashlib.sha256(script).hexdigest())]
    key, waiting = await bench.waiting("shell", CURL)
    await bench.store.write(lambda tx: review.approve(tx, waiting.id, ANA, digest=waiting.digest))
    bench.sandbox.files["/workspace/sync.py"] = b"import os; os.system('boom')"
    result = await bench.step(key)
    assert isinstance(result, ToolResult)
    assert result.status is ResultStatus.FAILED
    assert bench.sandbox.effects == []


async def test_a_task_grant_opens_the_same_for_the_run_until_revoked(bench: Bench) -> None:
    bench.policy.effects = ASK
    key, waiting = await bench.waiting("shell", CURL)
    await bench.store.write(lambda tx: review.approve(tx, waiting.id, ANA, digest=waiting.digest, width="task"))
    await bench.step(key)
    assert (await bench.result("shell", CURL)).status is ResultStatus.OK
    (grant,) = await bench.store.read(grants.every)
    await bench.store.write(lambda tx: grants.revoke(tx, grant.id, by="person:ana"))
    assert isinstance(await bench.step(await bench.call("shell", CURL)), int)


async def test_a_grant_never_beats_a_forbid(bench: Bench) -> None:
    bench.policy.effects = ASK
    key, waiting = await bench.waiting("shell", CURL)
    await bench.store.write(lambda tx: review.approve(tx, waiting.id, ANA, digest=waiting.digest, width="task"))
    await bench.step(key)
    bench.policy.effects = dict.fromkeys(ASK, Effect.FORBID)
    assert (await bench.result("shell", CURL)).status is ResultStatus.FORBIDDEN


async def test_an_edit_is_a_new_revision_decided_anew(bench: Bench) -> None:
    bench.policy.effects = ASK
    key, waiting = await bench.waiting("shell", CURL)
    edited = json.dumps({"command": "echo safe"})
    await bench.store.write(
        lambda tx: review.edit(
            tx, waiting.id, ANA, digest=waiting.digest, arguments_text=edited, toolbox=builtin_toolbox()
        )
    )
    result = await bench.step(key)
    assert isinstance(result, ToolResult)
    assert result.text == "echo safe"
    (effect,) = bench.sandbox.effects
    assert isinstance(effect, Exec)
    assert effect.argv[-1] == "echo safe"


async def test_identical_open_requests_share_one_card(bench: Bench) -> None:
    bench.policy.effects = ASK
    _, first = await bench.waiting("shell", CURL)
    second_key, second = await bench.waiting("shell", CURL)
    assert first.id == second.id
    await bench.store.write(lambda tx: review.deny(tx, first.id, ANA))
    result = await bench.step(second_key)
    assert isinstance(result, ToolResult)
    assert result.status is ResultStatus.DENIED


async def test_a_question_gets_its_answer(bench: Bench) -> None:
    key, waiting = await bench.waiting("ask_human", json.dumps({"question": "Which database?"}))
    with pytest.raises(EscalationClosed):
        await bench.store.write(lambda tx: review.approve(tx, waiting.id, ANA, digest=waiting.digest))
    await bench.store.write(lambda tx: review.answer(tx, waiting.id, ANA, text="The test one."))
    result = await bench.step(key)
    assert isinstance(result, ToolResult)
    assert result.text == "The test one."


async def test_a_requested_host_is_granted_to_the_run(bench: Bench, clock: Clock) -> None:
    bench.policy.effects = ASK
    key, waiting = await bench.waiting(
        "request_access", json.dumps({"kind": "host", "resource": "https://url.example/", "reason": "tests"})
    )
    await bench.store.write(lambda tx: review.approve(tx, waiting.id, ANA, digest=waiting.digest, width="task"))
    result = await bench.step(key)
    assert isinstance(result, ToolResult)
    assert result.status is ResultStatus.OK
    live = await bench.store.read(lambda connection: grants.live(connection, RUN, micros(clock.now)))
    access = Access(Family.NETWORK, "url.example:443", {"method": "CONNECT", "sends": False})
    assert _opens(live, access)
    clock.pass_time(waiting.terms.ttl_s + 1)
    assert not await bench.store.read(lambda connection: grants.live(connection, RUN, micros(clock.now)))


def _opens(live: Sequence[grants.Grant], access: Access) -> bool:
    return any(grant.covers(access) for grant in live)
