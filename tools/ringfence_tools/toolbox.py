"""What a tool is, and the set of tools that a run has.

A tool says what a call means before anything runs: its arguments (a pydantic model), and the accesses the call comes
down to. How it acts is one of four kinds, and the gate, which alone may act, treats each in its way after a crash:
a `SandboxTool` is one action of the sandbox (asked for by call id), a `ReadTool` changes nothing (read again), a
`ControlTool` changes only Ringfence's own state or is safe to repeat, an `OutsideTool` acts elsewhere, safe to repeat.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ringfence_audit.events import JsonValue
from ringfence_sandbox.contract import Action, CallId, Outcome, Sandbox
from ringfence_tools.calls import Access, CallKey, ResultStatus, ToolResult


class Arguments(BaseModel):
    """Base of every tool's arguments: unknown keys are refused, values are not coerced."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


A = TypeVar("A", bound=Arguments)
FORESEEN = "foreseen"
"""Among what an approval seals, the digest of what the call would do outside the sandbox."""


@dataclass(frozen=True, slots=True)
class Acting:
    """What a tool may use while it acts for one call."""

    key: CallKey
    call_id: CallId
    fence: int
    sandbox: Sandbox
    sealed: Mapping[str, str]
    is_approved: bool = False
    """People decided on this very call, so it may do no more than what they saw (see `Foreseen`)."""

    @property
    def foreseen(self) -> str:
        """The digest of what they saw, "" where nothing could be looked up."""
        return self.sealed.get(FORESEEN, "")


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What a call would do outside the sandbox, looked up before people are asked.

    `lines` go on the card, safe to show. `sha256` becomes part of the action digest and comes back as
    `Acting.foreseen`; "" where nothing could be looked up.
    """

    lines: tuple[str, ...] = ()
    sha256: str = ""


class Reconsider(Exception):
    """The call would do something else than people approved, and nothing was done: it is put to them again."""


class ToolRefusal(Exception):
    """The call cannot be carried out as asked and nothing was done; the text goes to the agent."""


class Tool(ABC, Generic[A]):
    """A tool that an agent may ask for."""

    name: ClassVar[str]
    description: ClassVar[str]
    is_read_only: ClassVar[bool] = False
    seals: ClassVar[bool] = False
    """A call of this tool may execute files of the workspace: they are sealed when a person must approve it."""
    arguments: type[A]

    @abstractmethod
    def accesses(self, arguments: A) -> tuple[Access, ...]:
        """What the call comes down to. Pure, and never trusts what the agent says about its own risk."""

    def summary(self, arguments: A) -> str:
        """One line for people, unescaped."""
        return " ".join(f"{name}={value!r}" for name, value in arguments.model_dump().items() if value is not None)


class SandboxTool(Tool[A]):
    """Acts through exactly one sandbox action, which the sandbox knows by its call id."""

    @abstractmethod
    async def action(self, arguments: A, acting: Acting) -> Action:
        """The action; reading to prepare it is fine, changing anything is not. Raises `ToolRefusal`."""

    @abstractmethod
    def result(self, arguments: A, outcome: Outcome) -> ToolResult:
        """What the agent is told of a finished action."""


class ReadTool(Tool[A]):
    """Reads and changes nothing, so that it may be done again."""

    is_read_only: ClassVar[bool] = True

    @abstractmethod
    async def read(self, arguments: A, sandbox: Sandbox) -> ToolResult: ...

    async def foresee(self, arguments: A, sandbox: Sandbox) -> Foreseen:
        """What the card should say besides; nothing, for what lies inside the sandbox."""
        return Foreseen()


class OutsideTool(Tool[A]):
    """Acts outside the sandbox under the run's own identity, in a way that is safe to repeat."""

    @abstractmethod
    async def foresee(self, arguments: A, sandbox: Sandbox) -> Foreseen:
        """What it would do, for the card. Changes nothing. Raises `ToolRefusal`."""

    @abstractmethod
    async def act(self, arguments: A, acting: Acting) -> ToolResult:
        """Raises `ToolRefusal`, and `Reconsider` where it would do something else than was approved."""


class ControlTool(Tool[A]):
    """Needs no sandbox: ends the run, or reports what approval has opened. Safe to repeat."""

    @abstractmethod
    async def control(self, arguments: A) -> ToolResult: ...


class QuestionTool(Tool[A]):
    """Its result is a person's answer: the call waits until there is one."""

    @abstractmethod
    def question(self, arguments: A) -> str: ...


class Toolbox:
    """The tools of a run, by name."""

    # Any: tools of different arguments share one box; each parses with its own model, so the pair always fits.
    def __init__(self, tools: Iterable[Tool[Any]]) -> None:
        self._tools: dict[str, Tool[Arguments]] = {tool.name: tool for tool in tools}
        self._digests = {name: _schema_digest(tool) for name, tool in self._tools.items()}

    def get(self, name: str) -> Tool[Arguments] | None:
        return self._tools.get(name)

    def names(self) -> tuple[str, ...]:
        return tuple(self._tools)

    def is_read_only(self, name: str) -> bool:
        tool = self._tools.get(name)
        return tool is not None and tool.is_read_only

    def schema_digest(self, name: str) -> str:
        """SHA-256 (hex) of the canonical JSON of the tool's name, description and argument schema."""
        return self._digests[name]

    def schemas(self) -> list[dict[str, JsonValue]]:
        """The tools as OpenAI function definitions."""
        return [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": _parameters(tool.arguments),
                },
            }
            for tool in self._tools.values()
        ]

    def only(self, keep: Callable[[str], bool]) -> Toolbox:
        """A smaller toolbox."""
        return Toolbox(tool for name, tool in self._tools.items() if keep(name))


def parse_arguments(tool: Tool[Arguments], text: str) -> Arguments:
    """The model's raw JSON text as the tool's arguments. Raises only `ToolRefusal`, with what to mend."""
    if len(text) > 8 << 20:
        raise ToolRefusal(f"arguments are {len(text)} characters long; at most {8 << 20} are accepted")
    try:
        text.encode()
        return tool.arguments.model_validate_json(text or "{}")
    except UnicodeEncodeError as error:
        raise ToolRefusal("arguments hold an unpaired surrogate, which is not text") from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'arguments'}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)[:5]
        )
        raise ToolRefusal(f"arguments of {tool.name} are not valid: {problems}") from error
    except RecursionError as error:
        raise ToolRefusal("arguments are nested too deeply") from error


def failed(text: str, **data: JsonValue) -> ToolResult:
    return ToolResult(ResultStatus.FAILED, text, data)


def _parameters(arguments: type[Arguments]) -> dict[str, JsonValue]:
    schema = arguments.model_json_schema()
    schema.pop("title", None)
    for field in schema.get("properties", {}).values():
        field.pop("title", None)
    return schema


def _schema_digest(tool: Tool[Arguments]) -> str:
    described = {"name": tool.name, "description": tool.description, "parameters": _parameters(tool.arguments)}
    return hashlib.sha256(json.dumps(described, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
