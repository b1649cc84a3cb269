"""Chat-completion chunks put together to an answer. Pure, and made for endpoints that do not keep to the form.

Seen in the wild and handled: a tool call's `index` missing; whole calls that share index 0 without an id; a name that
is repeated in every piece; arguments as an object instead of text; content in parts; `choices: null`; a whole message
instead of deltas; the old `function_call`; no usage; usage that is nonsense; no finish reason.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ringfence_agents.model import (
    ARGUMENTS_LIMIT_CHARS,
    CALLS_LIMIT,
    CONTENT_LIMIT_CHARS,
    Answer,
    ModelCall,
    Usage,
    estimate_tokens,
)


@dataclass
class _Partial:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.arguments)


class AnswerBuilder:
    """Takes chunks in order. `is_full`: the bounds are reached, nothing more is taken; stop reading."""

    def __init__(self) -> None:
        self.is_full = False
        self.has_chunks = False
        self.finish_reason: str | None = None
        self._content: list[str] = []
        self._calls: list[_Partial] = []
        self._by_index: dict[int, _Partial] = {}
        self._usage: Mapping[str, object] = {}
        self._model = ""
        self._content_chars = 0
        self._argument_chars = 0
        self._dropped = 0

    def add(self, chunk: object) -> str:
        """Take one chunk, which may be any JSON; return the text that it adds."""
        if not isinstance(chunk, Mapping) or self.is_full:
            return ""
        self.has_chunks = True
        usage = chunk.get("usage")
        if isinstance(usage, Mapping):
            self._usage = usage
        self._model = self._model or _text(chunk.get("model"))
        choices = chunk.get("choices")
        if not isinstance(choices, Sequence) or isinstance(choices, str) or not choices:
            return ""
        choice = choices[0]
        return self._add_choice(choice) if isinstance(choice, Mapping) else ""

    def _add_choice(self, choice: Mapping[str, object]) -> str:
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason:
            self.finish_reason = reason
        delta = choice.get("delta")
        if not isinstance(delta, Mapping) or not delta:
            delta = choice.get("message")
        if not isinstance(delta, Mapping):
            return ""
        self._add_calls(delta)
        return self._add_content(_content(delta.get("content")))

    def _add_content(self, text: str) -> str:
        room = CONTENT_LIMIT_CHARS - self._content_chars
        if len(text) > room:
            text, self.is_full = text[:room], True
        self._content_chars += len(text)
        if text:
            self._content.append(text)
        return text

    def _add_calls(self, delta: Mapping[str, object]) -> None:
        calls = delta.get("tool_calls")
        if isinstance(calls, Sequence) and not isinstance(calls, str):
            for piece in calls:
                if isinstance(piece, Mapping):
                    self._add_piece(piece)
        legacy = delta.get("function_call")
        if isinstance(legacy, Mapping):
            self._add_piece({"index": 0, "function": legacy})

    def _add_piece(self, piece: Mapping[str, object]) -> None:
        function = piece.get("function")
        function = function if isinstance(function, Mapping) else {}
        index, call_id = piece.get("index"), _text(piece.get("id"))
        name, arguments = _text(function.get("name")), _arguments(function.get("arguments"))
        number = index if isinstance(index, int) and not isinstance(index, bool) else None
        call = self._target(number, call_id, name)
        if call is None:
            self._dropped += 1
            return
        call.id = call.id or call_id
        call.name = call.name or name
        self._argument_chars += len(arguments)
        if self._argument_chars > ARGUMENTS_LIMIT_CHARS:
            self.is_full = True
            return
        call.arguments.append(arguments)

    def _target(self, index: int | None, call_id: str, name: str) -> _Partial | None:
        """The call that a piece belongs to: the one at its index, or a new one; None beyond the limit."""
        known = self._by_index.get(index) if index is not None else (self._calls[-1] if self._calls else None)
        if known is not None and not _is_another(known, call_id, name):
            return known
        if len(self._calls) >= CALLS_LIMIT:
            return None
        call = _Partial()
        self._calls.append(call)
        if index is not None:
            self._by_index[index] = call
        return call

    def build(self, *, input_text_tokens: int, attempts: int) -> Answer:
        """The answer as far as it came. `input_text_tokens` stands in where the endpoint named no usage."""
        calls = tuple(ModelCall(call.id, call.name, call.text) for call in self._calls if call.name or call.text)
        content = "".join(self._content)
        reason = "length" if self.is_full else self.finish_reason or ""
        return Answer(
            content=content,
            tool_calls=calls,
            usage=_usage(self._usage, content, calls, input_text_tokens=input_text_tokens),
            finish_reason=reason,
            model=self._model,
            attempts=attempts,
            dropped_calls=self._dropped,
            is_cut=self.is_full,
        )


def _is_another(known: _Partial, call_id: str, name: str) -> bool:
    """Whether a piece that arrives where `known` stands begins a call of its own."""
    if call_id and known.id:
        return call_id != known.id
    if not name or not known.name:
        return False
    return name != known.name or _is_object(known.text)


def _is_object(text: str) -> bool:
    if not text.rstrip().endswith("}"):
        return False
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _arguments(value: object) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping) else ""


def _content(value: object) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, Sequence):
        return ""
    return "".join(_text(part.get("text")) for part in value if isinstance(part, Mapping))


def _usage(raw: Mapping[str, object], content: str, calls: Sequence[ModelCall], *, input_text_tokens: int) -> Usage:
    given, made = _count(raw.get("prompt_tokens")), _count(raw.get("completion_tokens"))
    if given is None or made is None:
        said = estimate_tokens(content) + sum(estimate_tokens(call.name + call.arguments_text) for call in calls)
        return Usage(given or input_text_tokens, made or said, is_estimated=True)
    details = raw.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, Mapping) else 0
    return Usage(given, made, min(cached or 0, given))


def _count(value: object) -> int | None:
    """A plausible number of tokens, or None."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if isinstance(value, int) and is_number and 0 <= value < 1 << 40 else None
