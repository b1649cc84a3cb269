"""The words of the gate: calls, the accesses they come down to, decisions, results.

An agent asks for a tool call; a tool states, without running anything, which accesses the call comes down to; the
policy decides on each access and the strictest answer holds. Pure data, no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NewType, TypeAlias

from ringfence_audit.events import JsonValue

RunId = NewType("RunId", str)
EscalationId = NewType("EscalationId", int)
GrantId = NewType("GrantId", str)


@dataclass(frozen=True, slots=True, order=True)
class CallKey:
    """Identity of a tool call, assigned when the model's answer is stored. The model's own id is only echoed back."""

    run: RunId
    turn: int
    index: int

    def __str__(self) -> str:
        return f"{self.run}/{self.turn}/{self.index}"


class Family(StrEnum):
    """What an access touches; the word that a profile's rules use."""

    SHELL = "shell"
    FILES = "files"
    NETWORK = "network"
    DELIVER = "deliver"
    CLUSTER = "cluster"
    TOOL = "tool"
    PEOPLE = "people"
    """Asking a person, or ending the run: always open, never an effect."""


@dataclass(frozen=True, slots=True)
class Access:
    """One thing that a call touches.

    `resource`: the command text (shell), an absolute path inside the sandbox (files), `host:port` with the host in
    ASCII form, lower case (network), a path of the patch (deliver), `verb group/resource namespace/name` (cluster), a
    tool's name (tool). `attributes` are what rules may look at: `method`, `path`, `url` (network), `write` (files),
    `outside` (files: not below the workspace), `sends` (network: bytes leave: PUT, POST, upload flags), `words`.
    """

    family: Family
    resource: str
    attributes: Mapping[str, str | int | bool] = field(default_factory=dict)


class Effect(StrEnum):
    ALLOW = "allow"
    ESCALATE = "escalate"
    FORBID = "forbid"


GrantWidth: TypeAlias = Literal["once", "task", "team"]


@dataclass(frozen=True, slots=True)
class Terms:
    """Who must approve an escalation, and until when. All of `all_of` and one of `any_of` (where not empty)."""

    any_of: tuple[str, ...] = ()
    all_of: tuple[str, ...] = ()
    ttl_s: int = 4 * 3600
    widest_grant: GrantWidth = "task"
    four_eyes: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to one call. `rules` led to it, strictest first; `escalating` are the accesses to be granted."""

    effect: Effect
    rules: tuple[str, ...]
    policy_version: str
    reason: str
    instead: str = ""
    terms: Terms | None = None
    escalating: tuple[Access, ...] = ()


class ResultStatus(StrEnum):
    """How a call ended, as the agent and the log see it."""

    OK = "ok"
    FAILED = "failed"
    """It ran, and did not do what was asked (non-zero exit, no match, timeout)."""
    INVALID = "invalid"
    """Unknown tool, broken JSON, arguments outside the schema. Nothing ran."""
    FORBIDDEN = "forbidden"
    DENIED = "denied"
    """A person denied it, or nobody answered in time."""
    BUDGET = "budget"
    UNKNOWN = "unknown"
    """It started, and nobody can say what it did."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What goes back to the agent. `text` is bounded; `data` is for log and console (exit code, paths, digests)."""

    status: ResultStatus
    text: str
    data: Mapping[str, JsonValue] = field(default_factory=dict)
