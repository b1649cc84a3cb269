"""Transcripts: recorded exchanges as JSON lines, for the replayed model and for tests of it.

Line 1: `{"kind": "transcript", "version": 1, "model": NAME, "note": TEXT}`. Every further line is an answer:
`{"kind": "answer", "content": TEXT, "tool_calls": [{"id", "name", "arguments": OBJECT or TEXT}], "usage":
{"input", "output"}, "when": [EXPECTATION…], "expect": [EXPECTATION…]}`. Expectations speak of the real results of the
answer before, in the order of its calls: `when` skips the line where they do not hold (so a transcript can go two
ways), `expect` stops the replay where they do not. `{"status": S or [S…], "contains": TEXT or [TEXT…], "exit_code": N,
"sha256": HEX of the text}`, each key optional.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ringfence_agents.errors import TranscriptInvalid
from ringfence_agents.model import Answer, ModelCall, SeenResult, Usage
from ringfence_tools.calls import ResultStatus

TRANSCRIPT_LIMIT_BYTES = 64 << 20


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


F = TypeVar("F", bound=_Form)


class Expectation(_Form):
    """What one result must be like. All that is named must hold."""

    status: Annotated[tuple[ResultStatus, ...], BeforeValidator(_listed)] = ()
    contains: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    exit_code: int | None = None
    sha256: str | None = None

    def misses(self, result: SeenResult) -> str:
        """What is not as expected, or "" where all is."""
        if self.status and result.status not in self.status:
            return f"ended {result.status.value}, expected {' or '.join(status.value for status in self.status)}"
        for text in self.contains:
            if text not in result.text:
                return f"does not say {text[:200]!r}; it says {result.text[:500]!r}"
        if self.exit_code is not None and result.data.get("exit_code") != self.exit_code:
            return f"has exit code {result.data.get('exit_code')}, expected {self.exit_code}"
        if self.sha256 is not None and hashlib.sha256(result.text.encode()).hexdigest() != self.sha256:
            return f"differs from the recorded text; it says {result.text[:500]!r}"
        return ""


class CallLine(_Form):
    id: str = ""
    name: str
    arguments: dict[str, object] | str = Field(default_factory=dict)


class UsageLine(_Form):
    input: int = 0
    output: int = 0


class AnswerLine(_Form):
    kind: Literal["answer"] = "answer"
    content: str = ""
    tool_calls: tuple[CallLine, ...] = ()
    usage: UsageLine = UsageLine()
    finish_reason: str = ""
    when: tuple[Expectation, ...] = ()
    expect: tuple[Expectation, ...] = ()

    def answer(self, *, model: str, bookmark: str) -> Answer:
        calls = tuple(
            ModelCall(
                call.id,
                call.name,
                call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments, ensure_ascii=False),
            )
            for call in self.tool_calls
        )
        reason = self.finish_reason or ("tool_calls" if calls else "stop")
        usage = Usage(self.usage.input, self.usage.output)
        return Answer(self.content, calls, usage, reason, model=model, bookmark=bookmark)


class HeadLine(_Form):
    kind: Literal["transcript"]
    version: Literal[1]
    model: str
    note: str = ""


class Transcript(_Form):
    """A transcript that has been read whole."""

    head: HeadLine
    answers: tuple[AnswerLine, ...]

    def to_jsonl(self) -> str:
        lines: Iterable[_Form] = (self.head, *self.answers)
        return "".join(line.model_dump_json(exclude_defaults=False, exclude_none=True) + "\n" for line in lines)


def read_transcript(path: Path) -> Transcript:
    """Raises `TranscriptInvalid` that names file and line."""
    try:
        if path.stat().st_size > TRANSCRIPT_LIMIT_BYTES:
            raise TranscriptInvalid(f"{path}: longer than {TRANSCRIPT_LIMIT_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TranscriptInvalid(f"{path}: cannot be read: {error}") from error
    return parse_transcript(text, name=str(path))


def parse_transcript(text: str, *, name: str) -> Transcript:
    """Raises `TranscriptInvalid` that names the line."""
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise TranscriptInvalid(f"{name}: empty")
    head = _line(HeadLine, *lines[0], name=name)
    return Transcript(head=head, answers=tuple(_line(AnswerLine, *line, name=name) for line in lines[1:]))


def _line(form: type[F], number: int, text: str, *, name: str) -> F:
    try:
        return form.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise TranscriptInvalid(f"{name}, line {number}: {place} {problem['msg']}".replace("  ", " ")) from error


def misses(expectations: Sequence[Expectation], results: Sequence[SeenResult]) -> str:
    """What of the results is not as expected, or "". More expectations than results is a miss too."""
    if len(expectations) > len(results):
        return f"{len(expectations)} results expected, there are {len(results)}"
    for expectation, result in zip(expectations, results, strict=False):
        missing = expectation.misses(result)
        if missing:
            return f"the result of {result.tool} (call {result.key}) {missing}"
    return ""


def recorded(result: SeenResult, *, is_exact: bool) -> Expectation:
    """The expectation that this result stands for in a recording."""
    code = result.data.get("exit_code")
    return Expectation(
        status=(result.status,),
        exit_code=code if isinstance(code, int) and not isinstance(code, bool) else None,
        sha256=hashlib.sha256(result.text.encode()).hexdigest() if is_exact else None,
    )
