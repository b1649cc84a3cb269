"""The model port: what an agent's model is asked, what it may answer, what that costs.

First step on the path of a tool call. Everything in an `Answer` is hostile text; `seal` bounds it and makes it
storable before anything else touches it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias

from ringfence_audit.events import JsonValue
from ringfence_tools.calls import CallKey, ResultStatus, RunId

CONTENT_LIMIT_CHARS = 256 << 10
ARGUMENTS_LIMIT_CHARS = 2 << 20
NAME_LIMIT_CHARS = 128
CALLS_LIMIT = 64

Message: TypeAlias = Mapping[str, JsonValue]
"""One message in the OpenAI chat form, JSON-plain."""

ToolSchema: TypeAlias = Mapping[str, object]
"""One function tool in the OpenAI form, JSON-plain (floats may occur in a JSON schema, so it is never an entry)."""

OnDelta: TypeAlias = Callable[[str], None]
"""Receives the text as it streams. Must not block or raise. Text of an attempt that fails is streamed too."""


@dataclass(frozen=True, slots=True)
class SeenResult:
    """A result of the previous answer's calls, as the agent is about to see it. A replayed model compares it."""

    key: CallKey
    tool: str
    status: ResultStatus
    text: str
    data: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One question. `bookmark` is what the model's last stored answer asked to be handed back."""

    run: RunId
    turn: int
    messages: Sequence[Message]
    tools: Sequence[ToolSchema]
    max_output_tokens: int
    last_results: Sequence[SeenResult] = ()
    bookmark: str = ""


@dataclass(frozen=True, slots=True)
class ModelCall:
    """A tool call as the model wrote it: `arguments_text` may be anything. `id` may be empty or repeat."""

    id: str
    name: str
    arguments_text: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one exchange. `is_estimated`: the endpoint named none, or nonsense, so they were counted from text."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    is_estimated: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, whole. `finish_reason` is the endpoint's word (`stop`, `tool_calls`, `length`, …)."""

    content: str
    tool_calls: tuple[ModelCall, ...]
    usage: Usage
    finish_reason: str
    model: str = ""
    attempts: int = 1
    bookmark: str = ""
    dropped_calls: int = 0
    is_cut: bool = False
    """Something was longer than the bounds of this module and was cut."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Micro-dollars per million tokens."""

    input: int = 0
    output: int = 0
    cached_input: int | None = None

    def cost_micro_usd(self, usage: Usage) -> int:
        """Rounded up, so that use is never free where a price stands."""
        cached = min(usage.cached_tokens, usage.input_tokens)
        cached_price = self.input if self.cached_input is None else self.cached_input
        total = (usage.input_tokens - cached) * self.input + cached * cached_price + usage.output_tokens * self.output
        return -(-total // 1_000_000)


class Model(Protocol):
    """A model behind some endpoint. Concurrency: any number of tasks may ask at once. Retries are its own affair."""

    @property
    def name(self) -> str: ...

    @property
    def window_tokens(self) -> int:
        """How much fits, input and output together."""

    @property
    def max_output_tokens(self) -> int: ...

    @property
    def prices(self) -> Prices: ...

    @property
    def is_replay(self) -> bool:
        """True for a recorded model; whoever shows its words says so."""

    async def answer(self, request: ModelRequest, on_delta: OnDelta) -> Answer:
        """Ask. Raises `ModelError`; cancelling the awaiting task ends the request."""


def estimate_tokens(text: str) -> int:
    """A cautious guess from above for prose and code: three UTF-8 bytes a token."""
    return -(-len(text.encode("utf-8", "replace")) // 3)


def storable(text: str) -> str:
    """The text without what UTF-8 or a database cannot hold: a lone surrogate becomes `?`, NUL becomes U+FFFD."""
    if text.isascii() and "\x00" not in text:
        return text
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "\ufffd")


def seal(answer: Answer) -> Answer:
    """Bound and clean an answer. Calls beyond the limit are dropped and counted; longer text is cut and marked."""
    kept = answer.tool_calls[:CALLS_LIMIT]
    is_cut = answer.is_cut or len(answer.content) > CONTENT_LIMIT_CHARS
    is_cut = is_cut or any(len(call.arguments_text) > ARGUMENTS_LIMIT_CHARS for call in kept)
    return replace(
        answer,
        content=storable(answer.content[:CONTENT_LIMIT_CHARS]),
        tool_calls=tuple(
            ModelCall(
                id=storable(call.id[:NAME_LIMIT_CHARS]),
                name=storable(call.name[:NAME_LIMIT_CHARS]),
                arguments_text=storable(call.arguments_text[:ARGUMENTS_LIMIT_CHARS]),
            )
            for call in kept
        ),
        finish_reason=storable(answer.finish_reason[:NAME_LIMIT_CHARS]),
        model=storable(answer.model[:NAME_LIMIT_CHARS]),
        dropped_calls=answer.dropped_calls + len(answer.tool_calls) - len(kept),
        is_cut=is_cut,
    )
