"""The gate: the only door between an agent's tool call and any effect.

validate → digest → reserve budget → decide → durable entry → act → outcome entry. One call is stepped by one worker
at a time (the run's lease); every step reads the ledger first, so that it may be repeated at any point, also by
another worker after a crash. What moves a row commits together with its entry.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias, assert_never

from sqlalchemy import Connection

from ringfence_audit.events import JsonValue
from ringfence_audit.port import Store, Transaction
from ringfence_sandbox.contract import WORKSPACE
from ringfence_sandbox.errors import IsolationUnavailable, PathRefused, ProtocolViolation, SandboxGone
from ringfence_tools import budget, escalations, gate_events, grants, ledger, review
from ringfence_tools.budget import Unit
from ringfence_tools.calls import (
    Access,
    CallKey,
    Decision,
    Effect,
    EscalationId,
    Family,
    ResultStatus,
    Terms,
    ToolResult,
)
from ringfence_tools.card import CardFacts, build_card
from ringfence_tools.clock import micros
from ringfence_tools.digest import action_digest, matter
from ringfence_tools.effects import Effects, call_id_of
from ringfence_tools.errors import NotFound
from ringfence_tools.escalations import Asking, Escalation, EscalationState
from ringfence_tools.foresight import foresee
from ringfence_tools.gate_context import Decider, Guard, RunContext, Settled, Step, TaskFacts, Waiting
from ringfence_tools.gate_events import Read, Warrant
from ringfence_tools.ledger import CallRow, CallState
from ringfence_tools.people import Directory, is_satisfied
from ringfence_tools.progress import CallDecided, CallSettled
from ringfence_tools.toolbox import (
    Arguments,
    QuestionTool,
    Reconsider,
    SandboxTool,
    Tool,
    Toolbox,
    ToolRefusal,
    parse_arguments,
)

SEALED_LIMIT = 500
"""Files whose hashes an approval may cover. A run that changed more must be approved in a fresh workspace."""

MONTH_US = 30 * 24 * 3600 * 1_000_000


__all__ = ["Gate", "Guard", "RunContext", "Settled", "Step", "TaskFacts", "Waiting"]


@dataclass(frozen=True, slots=True)
class _Intended:
    """An intent that is durable now and must act: the row as it stands, and the call as it was read."""

    row: CallRow
    read: Read


_Next: TypeAlias = Settled | Waiting | _Intended | None
"""Where a transaction left a call: at a step, at an intent, or to be read again."""


class Gate:
    """One per policy version and store. Safe for any number of calls at once; one call is stepped by one task."""

    def __init__(
        self, store: Store, policy: Decider, toolbox: Toolbox, directory: Directory, *, end_run_at: int = 3
    ) -> None:
        self._store = store
        self._policy = policy
        self._toolbox = toolbox
        self._directory = directory
        self._end_run_at = end_run_at
        self._effects = Effects(store)

    async def step(self, key: CallKey, context: RunContext, *, seen: CallRow | None = None) -> Step:
        """Take one call as far as it goes now. Safe to repeat at any point, also after a crash.

        `seen` is the row as the lease's holder read it a moment ago; one that moved since is read anew. Raises
        `LeaseLost`, `LogUnavailable` (then nothing ran), and the sandbox's `SandboxBusy` and `StaleFence`.
        """
        row = seen
        while True:
            row = row or await self._store.read(lambda connection: ledger.call(connection, key))
            if row is None:
                raise NotFound(f"no call {key}")
            try:
                step = await self._advance(row, context)
                if isinstance(step, _Intended):
                    step = await self._act(step.row, context, read=step.read)
            except ledger.CallMoved:
                row = None
                continue
            row = None
            if step is not None:
                return step

    async def _advance(self, row: CallRow, context: RunContext) -> _Next:
        match row.state:
            case CallState.DONE:
                if row.result is None:
                    raise NotFound(f"call {row.key} is done without a result")
                return Settled(row.result)
            case CallState.NEW:
                return await self._open(row, context)
            case CallState.WAITING:
                return await self._after_people(row, context)
            case CallState.INTENT:
                return await self._act(row, context)
            case _:
                assert_never(row.state)

    # -- new: validate, digest, reserve, decide, write --------------------------------------------------------------

    async def _open(self, row: CallRow, context: RunContext) -> _Next:
        try:
            tool, arguments, accesses = self._read(row)
        except ToolRefusal as error:
            return await self._refuse_invalid(row, context, str(error))
        decided = self._policy.decide(tool.name, accesses)
        sealed = await self._seal(tool, context) if decided.effect is Effect.ESCALATE else {}
        sandbox = "" if decided.effect is Effect.FORBID else await self._sandbox_for(tool, context)
        if sealed is None:
            return await self._refuse_invalid(
                row, context, f"this run changed more than {SEALED_LIMIT} files, too many for a person to approve"
            )
        try:
            seen = await foresee(tool, arguments, accesses, effect=decided.effect, context=context)
        except ToolRefusal as error:
            return await self._refuse_invalid(row, context, str(error))
        sealed |= seen.sealed
        read = self._digested(row, tool, arguments, accesses=accesses, sealed=sealed, context=context)
        read = replace(read, sandbox=sandbox, foreseen=seen.lines)
        if isinstance(tool, QuestionTool):
            return await self._ask(row, context, read, question=tool.question(arguments), decided=decided)

        def work(tx: Transaction) -> _Next:
            context.starting(tx)
            exceeded = self._reserve(tx, row, context)
            if exceeded is not None:
                return self._settle(tx, row, context, exceeded, digest=read.digest)
            match decided.effect:
                case Effect.ALLOW:
                    return self._intend(tx, row, context, read, decision=decided, warrant=Warrant())
                case Effect.FORBID:
                    tx.record(gate_events.decision(context.agent, context.person, row, read=read, decided=decided))
                    text = gate_events.refusal_text(row.key, decided)
                    return self._settle(tx, row, context, _result(ResultStatus.FORBIDDEN, text), digest=read.digest)
                case Effect.ESCALATE:
                    return self._escalate(tx, row, context, read, decided=decided)
                case _:
                    assert_never(decided.effect)

        step = await self._store.write(work)
        escalation = step.escalation if isinstance(step, Waiting) else None
        context.progress(CallDecided(row.key, row.tool, tool.summary(arguments)[:2000], decided, escalation))
        return step if step is None or isinstance(step, _Intended) else self._told(row, context, step)

    def _read(self, row: CallRow) -> tuple[Tool[Arguments], Arguments, tuple[Access, ...]]:
        tool = self._toolbox.get(row.tool)
        if tool is None:
            raise ToolRefusal(f"there is no tool {row.tool[:80]!r}; there are {', '.join(self._toolbox.names())}")
        arguments = parse_arguments(tool, row.arguments_text)
        return tool, arguments, tool.accesses(arguments)

    async def _seal(self, tool: Tool[Arguments], context: RunContext) -> dict[str, str] | None:
        """The hashes of all files that this run changed, any of which the call might execute; None for too many."""
        if not tool.seals:
            return {}
        changed = await (await context.sandbox()).changed()
        files = {str(WORKSPACE / file.path): file.sha256 for file in changed if file.sha256}
        return files if len(files) <= SEALED_LIMIT else None

    async def _sandbox_for(self, tool: Tool[Arguments], context: RunContext) -> str:
        """The id of the sandbox in which an action will act, live before its intent is written."""
        return (await context.sandbox()).id if isinstance(tool, SandboxTool) else ""

    async def _sandbox_if_approved(self, row: CallRow, escalation: EscalationId, context: RunContext) -> str:
        """The same for a call that people have approved; one that still waits wakes no sandbox."""
        found = await self._store.read(lambda connection: escalations.get(connection, escalation))
        tool = self._toolbox.get(row.tool)
        is_due = found.state is EscalationState.APPROVED
        return await self._sandbox_for(tool, context) if tool is not None and is_due else ""

    def _digested(
        self,
        row: CallRow,
        tool: Tool[Arguments],
        arguments: Arguments,
        *,
        accesses: tuple[Access, ...],
        sealed: dict[str, str],
        context: RunContext,
    ) -> Read:
        plain = arguments.model_dump(mode="json")
        digest = action_digest(
            agent=context.agent,
            on_behalf_of=context.person,
            tool=tool.name,
            schema_digest=self._toolbox.schema_digest(tool.name),
            arguments=plain,
            accesses=accesses,
            sealed=sealed,
            nonce=row.nonce,
        )
        canonical = gate_events.canonical_arguments(plain)
        schema = self._toolbox.schema_digest(tool.name)
        return Read(tool, arguments, plain, canonical, accesses, sealed, digest, schema=schema)

    def _reserve(self, tx: Transaction, row: CallRow, context: RunContext) -> ToolResult | None:
        scopes = context.scopes or (budget.run_scope(row.key.run),)
        exceeded = budget.reserve(tx, scopes, {Unit.TOOL_CALLS: 1}, holder=str(row.key))
        return None if exceeded is None else _result(ResultStatus.BUDGET, f"The budget is used up: {exceeded}.")

    def _escalate(self, tx: Transaction, row: CallRow, context: RunContext, read: Read, *, decided: Decision) -> _Next:
        tx.record(gate_events.decision(context.agent, context.person, row, read=read, decided=decided))
        denial = escalations.denial_of(tx, row.key.run, decided.escalating)
        if denial is not None:
            return self._settle(tx, row, context, self._denied_again(denial), digest=read.digest)
        taken = grants.take(tx, row.key.run, decided.escalating, call=row.key)
        if taken is not None:
            return self._intend(tx, row, context, read, decision=decided, warrant=Warrant(grants=taken))
        return self._wait(tx, row, context, read, decided=decided, kind="call")

    def _wait(
        self, tx: Transaction, row: CallRow, context: RunContext, read: Read, *, decided: Decision, kind: str
    ) -> Waiting:
        subject = matter(row.tool, decided.escalating) if kind == "call" else read.digest
        asking = Asking(
            key=row.key,
            revision=row.revision,
            kind=kind,
            digest=read.digest,
            matter=subject,
            policy_version=decided.policy_version,
            agent=context.agent,
            requester=context.on_behalf_of,
            team=context.team,
            tool=row.tool,
            arguments=read.canonical,
            accesses=decided.escalating,
            terms=decided.terms or Terms(),
            reason=decided.reason,
            rules=decided.rules,
        )
        before, approved = escalations.alike(tx.connection, subject, since_us=micros(tx.now) - MONTH_US)
        facts = CardFacts(
            tool=row.tool,
            arguments=read.arguments,
            accesses=read.accesses,
            decision=decided,
            sealed=read.sealed,
            digest=read.digest,
            foreseen=read.foreseen,
            task=context.task.text,
            repository=context.task.repository,
            commit=context.task.commit,
            person=context.on_behalf_of,
            profile=context.task.profile,
            agent_says=context.says(tx.connection, row.key),
            alike=before,
            alike_approved=approved,
        )
        escalation = escalations.open_or_share(tx, asking, build_card(facts).to_json())
        ledger.to_waiting(tx, row, digest=read.digest, sealed=read.sealed, escalation=escalation)
        return Waiting(escalation)

    async def _ask(self, row: CallRow, context: RunContext, read: Read, *, question: str, decided: Decision) -> Step:
        def work(tx: Transaction) -> Step:
            context.starting(tx)
            exceeded = self._reserve(tx, row, context)
            if exceeded is not None:
                return self._settle(tx, row, context, exceeded, digest=read.digest)
            return self._wait(tx, row, context, read, decided=decided, kind="question")

        step = await self._store.write(work)
        escalation = step.escalation if isinstance(step, Waiting) else None
        context.progress(CallDecided(row.key, row.tool, question[:2000], decided, escalation))
        return self._told(row, context, step)

    async def _refuse_invalid(self, row: CallRow, context: RunContext, why: str) -> Step:
        result = _result(ResultStatus.INVALID, why)

        def work(tx: Transaction) -> Step:
            context.guard(tx)
            self._reserve(tx, row, context)
            budget.settle(tx, str(row.key), {Unit.TOOL_CALLS: 1})
            ledger.to_done(tx, row, result)
            tx.record(gate_events.invalid(context.agent, context.person, row, result=result))
            return Settled(result)

        step = await self._store.write(work)
        context.progress(CallDecided(row.key, row.tool, row.arguments_text[:2000], None))
        return self._told(row, context, step)

    def _denied_again(self, denial: escalations.Denial) -> ToolResult:
        text = (
            f"{denial.resource} was denied in E-{denial.escalation}, and that holds for this run "
            f"(attempt {denial.attempts} since). Go another way."
        )
        data: dict[str, JsonValue] = {"escalation": denial.escalation, "attempts": denial.attempts}
        if 0 < self._end_run_at <= denial.attempts:
            data["blocked"] = f"{denial.resource} was tried {denial.attempts} times after it was denied"
        return ToolResult(ResultStatus.DENIED, text, data)

    # -- waiting: what people said ----------------------------------------------------------------------------------

    async def _after_people(self, row: CallRow, context: RunContext) -> _Next:
        if row.escalation is None:
            raise NotFound(f"call {row.key} waits for no escalation")
        escalation_id = row.escalation
        sandbox = await self._sandbox_if_approved(row, escalation_id, context)

        def work(tx: Transaction) -> _Next:
            context.starting(tx)
            found = escalations.get(tx.connection, escalation_id)
            match found.state:
                case EscalationState.OPEN if found.is_open(micros(tx.now)):
                    return Waiting(found.id)
                case EscalationState.OPEN:
                    escalations.settle(tx, found, EscalationState.EXPIRED, by="system:gate", reason="nobody decided")
                    return self._settle(tx, row, context, _expired(found), digest=row.digest)
                case EscalationState.APPROVED if found.key == row.key and found.expires_at > micros(tx.now):
                    return self._consume(tx, row, context, found, sandbox=sandbox)
                case EscalationState.APPROVED if found.key == row.key:
                    escalations.settle(tx, found, EscalationState.EXPIRED, by="system:gate", reason="not used in time")
                    return self._settle(tx, row, context, _expired(found), digest=row.digest)
                case EscalationState.ANSWERED:
                    answered = ToolResult(ResultStatus.OK, found.answer or "", {"escalation": found.id})
                    return self._settle(tx, row, context, answered, digest=row.digest)
                case EscalationState.DENIED:
                    return self._settle(tx, row, context, _denied(tx.connection, found), digest=row.digest)
                case EscalationState.EXPIRED:
                    return self._settle(tx, row, context, _expired(found), digest=row.digest)
                case _:
                    # It shared a card that another call consumed, or that was edited: it is decided anew by itself.
                    ledger.revise(tx, row.key, revision=row.revision, arguments_text=row.arguments_text)
                    return None

        step = await self._store.write(work)
        return step if step is None or isinstance(step, _Intended) else self._told(row, context, step)

    def _consume(self, tx: Transaction, row: CallRow, context: RunContext, found: Escalation, *, sandbox: str) -> _Next:
        """Use an approval, once, after everything that it was bound to has been checked again."""
        tool, arguments, accesses = self._read(row)
        read = self._digested(row, tool, arguments, accesses=accesses, sealed=dict(row.sealed), context=context)
        read = replace(read, sandbox=sandbox)
        decided = self._policy.decide(tool.name, accesses)
        approvals = {
            vote.person: self._directory.groups_of(vote.person, team=context.team)
            for vote in escalations.votes_of(tx.connection, found.id)
            if vote.verdict == "approve" and vote.digest == read.digest
        }
        reason = _why_void(found, read, decided, approvals)
        if reason:
            tx.record(gate_events.decision(context.agent, context.person, row, read=read, decided=decided))
            escalations.settle(tx, found, EscalationState.WITHDRAWN, by="system:gate", reason=reason)
            if decided.effect is Effect.FORBID:
                text = gate_events.refusal_text(row.key, decided)
                return self._settle(tx, row, context, _result(ResultStatus.FORBIDDEN, text), digest=read.digest)
            ledger.revise(tx, row.key, revision=row.revision, arguments_text=row.arguments_text)
            return None
        if not escalations.settle(tx, found, EscalationState.CONSUMED, by="system:gate"):
            raise ledger.CallMoved(str(row.key))
        self._open_for(tx, row, found)
        warrant = Warrant(escalation=found.id, approvers=tuple(sorted(approvals)))
        return self._intend(tx, row, context, read, decision=decided, warrant=warrant)

    def _open_for(self, tx: Transaction, row: CallRow, found: Escalation) -> None:
        """Give what the approval opens in other layers (proxy, mounts): for the run, or for this one call."""
        opening = [access for access in found.accesses if _needs_opening(access)]
        if row.tool == review.REQUEST_ACCESS:
            uses = 1 if found.width == "once" else None
            review.give_grant(tx, found, found.accesses, width=found.width or "once", by="system:gate", uses=uses)
        elif opening and found.width != "task":
            review.give_grant(tx, found, opening, width="once", by="system:gate", call=str(row.key))

    def _intend(
        self, tx: Transaction, row: CallRow, context: RunContext, read: Read, *, decision: Decision, warrant: Warrant
    ) -> _Intended:
        """Write the intent and return the row as it will stand, on which `step` acts once this has committed."""
        ledger.to_intent(tx, row, digest=read.digest, sealed=read.sealed, sandbox=read.sandbox)
        event = gate_events.intent(context.agent, context.person, row, read=read, decision=decision, warrant=warrant)
        tx.record(event)
        stands = replace(row, state=CallState.INTENT, digest=read.digest, sealed=read.sealed, sandbox=read.sandbox)
        return _Intended(stands, read)

    # -- intent: act, or find out what became of it -----------------------------------------------------------------

    async def _act(self, row: CallRow, context: RunContext, *, read: Read | None = None) -> Step | None:
        """`read` is the call where its intent was written just now; without, it was found after a crash."""
        try:
            tool, arguments, accesses = (read.tool, read.given, read.accesses) if read else self._read(row)
            result, acknowledge = await self._effects.carry_out(
                row, context, tool=tool, arguments=arguments, accesses=accesses, is_fresh=read is not None
            )
        except Reconsider as error:
            await self._reconsider(row, context, str(error))
            return None
        except (ToolRefusal, PathRefused) as error:
            result, acknowledge = _result(ResultStatus.FAILED, str(error)), False
        except IsolationUnavailable as error:
            result, acknowledge = _result(ResultStatus.FAILED, f"not available in this sandbox: {error}"), False
        except (SandboxGone, ProtocolViolation) as error:
            text = f"The sandbox is lost ({error}); whether this call did anything is unknown."
            result, acknowledge = _result(ResultStatus.UNKNOWN, text), False

        def work(tx: Transaction) -> Step:
            context.guard(tx)
            return self._settle(tx, row, context, result, digest=row.digest)

        step = await self._store.write(work)
        if acknowledge:
            await (await context.sandbox()).acknowledge(call_id_of(row))
        context.progress(CallSettled(row.key, row.tool, result))
        return step

    async def _reconsider(self, row: CallRow, context: RunContext, why: str) -> None:
        """Nothing was done: the approval is spent, and the call is decided anew with what is known now."""

        def work(tx: Transaction) -> None:
            context.guard(tx)
            grants.end_of_call(tx, row.key)
            ledger.reconsider(tx, row)
            result = _result(ResultStatus.FAILED, f"Nothing was done, and it goes back to people: {why}.")
            tx.record(gate_events.outcome(context.agent, context.person, row, result=result, digest=row.digest))

        await self._store.write(work)

    # -- done -------------------------------------------------------------------------------------------------------

    def _settle(
        self, tx: Transaction, row: CallRow, context: RunContext, result: ToolResult, *, digest: str
    ) -> Settled:
        used = 0 if result.status is ResultStatus.BUDGET else 1
        budget.settle(tx, str(row.key), {Unit.TOOL_CALLS: used})
        if row.escalation is not None:
            grants.end_of_call(tx, row.key)
        ledger.to_done(tx, row, result)
        tx.record(gate_events.outcome(context.agent, context.person, row, result=result, digest=digest))
        return Settled(result)

    def _told(self, row: CallRow, context: RunContext, step: Step) -> Step:
        if isinstance(step, Settled):
            context.progress(CallSettled(row.key, row.tool, step.result))
        return step


def _result(status: ResultStatus, text: str) -> ToolResult:
    return ToolResult(status, text)


def _needs_opening(access: Access) -> bool:
    return access.family in (Family.NETWORK, Family.CLUSTER) or bool(access.attributes.get("outside"))


def _expired(found: Escalation) -> ToolResult:
    text = f"Nobody approved E-{found.id} in time, which denies it for this run. Go another way."
    return ToolResult(ResultStatus.DENIED, text, {"escalation": found.id})


def _denied(connection: Connection, found: Escalation) -> ToolResult:
    vote = next((vote for vote in escalations.votes_of(connection, found.id) if vote.verdict == "deny"), None)
    who = vote.person if vote else "a person"
    said = f' They say: "{vote.note}"' if vote and vote.note else ""
    text = f"{who} denied this in E-{found.id}, and that holds for this run.{said} Go another way."
    return ToolResult(ResultStatus.DENIED, text, {"escalation": found.id, "by": who})


def _why_void(found: Escalation, read: Read, decided: Decision, approvals: dict[str, frozenset[str]]) -> str:
    """Why an approval cannot be used any more, or "" where it stands."""
    if found.digest != read.digest:
        return "the call is not the one that was approved"
    if decided.effect is Effect.FORBID:
        return f"policy forbids it now ({', '.join(decided.rules)})"
    if not is_satisfied(found.terms, approvals):
        return "an approver no longer holds the group that was asked"
    if decided.effect is Effect.ESCALATE and decided.terms is not None:
        asked_now = (set(decided.terms.any_of), set(decided.terms.all_of))
        if asked_now != (set(found.terms.any_of), set(found.terms.all_of)):
            return "policy asks other groups now"
    return ""
