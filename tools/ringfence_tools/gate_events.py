"""What the gate writes into the log, as pure functions: one place that says what an entry of a call holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from ringfence_audit.events import Event, JsonValue, Kind
from ringfence_tools.calls import Access, CallKey, Decision, EscalationId, GrantId, ToolResult
from ringfence_tools.digest import access_json
from ringfence_tools.ledger import CallRow
from ringfence_tools.toolbox import Arguments, Tool


@dataclass(frozen=True, slots=True)
class Read:
    """A call as the gate has read it: valid arguments, what they come down to, and the digest over it all."""

    tool: Tool[Arguments]
    given: Arguments
    arguments: Mapping[str, JsonValue]
    canonical: str
    accesses: tuple[Access, ...]
    sealed: Mapping[str, str]
    digest: str
    schema: str = ""
    """The digest of the tool's schema, one of the parts of `digest`."""
    sandbox: str = ""
    """Where an action of this call will act."""
    foreseen: tuple[str, ...] = ()
    """What it would do outside the sandbox, for the card."""


@dataclass(frozen=True, slots=True)
class Warrant:
    """Why an intent may act although policy escalates: the grants or the approval that were taken."""

    grants: tuple[GrantId, ...] = ()
    escalation: EscalationId | None = None
    approvers: tuple[str, ...] = ()


def intent(agent: str, on_behalf_of: str, row: CallRow, *, read: Read, decision: Decision, warrant: Warrant) -> Event:
    """About to act. Durable before anything runs."""
    data = {
        **_proposed(row, read),
        "decision": _decided(decision),
        "grants": list(warrant.grants),
        "escalation": warrant.escalation,
        "approvers": list(warrant.approvers),
    }
    return Event(Kind.INTENT, agent, data, row.key.run, str(row.key), on_behalf_of)


def decision(agent: str, on_behalf_of: str, row: CallRow, *, read: Read, decided: Decision) -> Event:
    """Decided, and not to be run now: escalated or forbidden."""
    data = {**_proposed(row, read), "decision": _decided(decided)}
    return Event(Kind.DECISION, agent, data, row.key.run, str(row.key), on_behalf_of)


def outcome(agent: str, on_behalf_of: str, row: CallRow, *, result: ToolResult, digest: str) -> Event:
    """How the call ended. What a sandbox reported is its word, and marked so by `word`."""
    data: dict[str, JsonValue] = {
        "tool": row.tool,
        "revision": row.revision,
        "digest": digest,
        "status": result.status.value,
        "text": result.text,
        "data": dict(result.data),
        "word": "sandbox" if "ending" in result.data else "gate",
    }
    return Event(Kind.OUTCOME, agent, data, row.key.run, str(row.key), on_behalf_of)


def invalid(agent: str, on_behalf_of: str, row: CallRow, *, result: ToolResult) -> Event:
    """A call that never reached the policy; what was asked is kept as the text it was."""
    data: dict[str, JsonValue] = {
        "tool": row.tool,
        "revision": row.revision,
        "model_call_id": row.model_call_id,
        "arguments_text": row.arguments_text,
        "status": result.status.value,
        "text": result.text,
    }
    return Event(Kind.OUTCOME, agent, data, row.key.run, str(row.key), on_behalf_of)


def canonical_arguments(arguments: Mapping[str, JsonValue]) -> str:
    """The exact text that a reviewer sees; the digest covers the same values."""
    return json.dumps(arguments, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def refusal_text(key: CallKey, decided: Decision) -> str:
    """The structured refusal that goes to the agent: rule, reason, what to do instead."""
    body = {
        "refused": str(key),
        "rules": list(decided.rules),
        "reason": decided.reason,
        "instead": decided.instead or "Do it another way inside the sandbox; this refusal is final.",
    }
    return json.dumps(body, ensure_ascii=False)


def _proposed(row: CallRow, read: Read) -> dict[str, JsonValue]:
    return {
        "tool": row.tool,
        "revision": row.revision,
        "model_call_id": row.model_call_id,
        "arguments": read.arguments,
        "accesses": [access_json(access) for access in read.accesses],
        "sealed": dict(read.sealed),
        "digest": read.digest,
        "schema": read.schema,
        "nonce": row.nonce,
        "sandbox": read.sandbox,
    }


def _decided(decided: Decision) -> dict[str, JsonValue]:
    return {
        "effect": decided.effect.value,
        "rules": list(decided.rules),
        "policy_version": decided.policy_version,
        "reason": decided.reason,
    }
