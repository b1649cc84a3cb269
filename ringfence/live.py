"""A run as it happens: progress events as lines for a person, or as objects for a script.

Nothing here is truth (the log is), and everything here is hostile text on its way to a terminal.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import assert_never

from ringfence.render import Output, Style, money, span_of_time
from ringfence_audit.events import JsonValue
from ringfence_tools.calls import Decision, Effect, ResultStatus, ToolResult
from ringfence_tools.progress import (
    CallDecided,
    CallOutput,
    CallSettled,
    Exchanged,
    ProgressEvent,
    RunMoved,
    Thought,
)

_HEAD_LINES = 4
_TAIL_LINES = 4
_LINE_CHARS = 160
_THOUGHT_CHARS = 4000
"""What is shown of one stretch of thinking; the whole stands in the log."""

_MARKS: dict[Effect, tuple[str, Style]] = {
    Effect.ALLOW: ("allow", "good"),
    Effect.ESCALATE: ("ask", "wait"),
    Effect.FORBID: ("forbid", "bad"),
}


@dataclass
class LiveView:
    """A `ringfence_tools.progress.Progress`. One for each run that is watched; never raises on what a model says."""

    output: Output
    clock: Callable[[], float] = time.monotonic
    cost_micro_usd: int = 0
    tokens: int = 0
    turns: int = 0
    _started: float = field(default=0.0)
    _thought: str = ""
    _thought_shown: int = 0
    _state: tuple[str, str] = ("", "")

    def __post_init__(self) -> None:
        self._started = self.clock()

    def __call__(self, event: ProgressEvent) -> None:
        if self.output.is_json:
            self.output.record(event_json(event))
            return
        match event:
            case Thought():
                self._think(event.delta)
            case Exchanged():
                self._end_thought()
                self.turns += 1
                self.cost_micro_usd += event.cost_micro_usd
                self.tokens += event.input_tokens + event.output_tokens
            case CallDecided():
                self._end_thought()
                self._show_call(event)
            case CallOutput():
                pass  # folded: what matters of it comes with the result
            case CallSettled():
                self._show_result(event.result)
            case RunMoved():
                self._end_thought()
                self._show_state(event)
            case _:
                assert_never(event)

    def _think(self, delta: str) -> None:
        self._thought += delta
        *complete, self._thought = self._thought.split("\n")
        for part in complete:
            self._show_thought(part)
        if len(self._thought) > _LINE_CHARS:
            self._end_thought()

    def _end_thought(self) -> None:
        if self._thought.strip():
            self._show_thought(self._thought)
        self._thought = ""
        self._thought_shown = 0

    def _show_thought(self, text: str) -> None:
        if self._thought_shown > _THOUGHT_CHARS or not text.strip():
            return
        self._thought_shown += len(text)
        self.output.line(("  │ ", "dim"), (_cut(text), "dim"))

    def _show_call(self, event: CallDecided) -> None:
        mark: str
        style: Style
        mark, style = ("invalid", "bad") if event.decision is None else _MARKS[event.decision.effect]
        rules = ", ".join(event.decision.rules[:2]) if event.decision is not None else ""
        waits = f" → E-{event.escalation}" if event.escalation is not None else ""
        self.output.line(
            ("▸ ", style),
            (event.tool[:40], "bold"),
            " ",
            _cut(event.summary),
            "  ",
            (mark, style),
            (f" ({rules})" if rules else "", "dim"),
            (waits, "wait"),
        )

    def _show_result(self, result: ToolResult) -> None:
        style: Style = "dim" if result.status is ResultStatus.OK else "bad"
        for text in folded(result.text):
            self.output.line("    ", (text, style))

    def _show_state(self, event: RunMoved) -> None:
        if (event.state, event.detail) == self._state:
            return
        self._state = (event.state, event.detail)
        spent = f"{money(self.cost_micro_usd)}, {self.tokens} tokens, {span_of_time(self.clock() - self._started)}"
        detail = f": {event.detail}" if event.detail else ""
        self.output.line(("· ", "dim"), (event.state, "bold"), _cut(detail), (f"  {spent}", "dim"))


def folded(text: str) -> list[str]:
    """The first and last lines of an output, and how much lies between."""
    lines = text.splitlines()
    if len(lines) <= _HEAD_LINES + _TAIL_LINES + 1:
        return [_cut(line) for line in lines]
    between = len(lines) - _HEAD_LINES - _TAIL_LINES
    shown = [*lines[:_HEAD_LINES], f"… {between} more lines …", *lines[-_TAIL_LINES:]]
    return [_cut(line) for line in shown]


def event_json(event: ProgressEvent) -> dict[str, JsonValue]:
    """One object for scripts. `type` tells the kind; ids are texts."""
    match event:
        case Thought():
            return {"type": "thought", "run_id": event.run, "text": event.delta}
        case Exchanged():
            return {
                "type": "exchange",
                "run_id": event.run,
                "turn": event.turn,
                "input_tokens": event.input_tokens,
                "output_tokens": event.output_tokens,
                "cost_micro_usd": event.cost_micro_usd,
            }
        case CallDecided():
            return {
                "type": "call",
                "run_id": event.key.run,
                "call": str(event.key),
                "tool": event.tool,
                "summary": event.summary,
                "decision": None if event.decision is None else _decision_json(event.decision),
                "escalation": event.escalation,
            }
        case CallOutput():
            return {
                "type": "output",
                "run_id": event.key.run,
                "call": str(event.key),
                "text": event.data.decode("utf-8", "replace"),
            }
        case CallSettled():
            return {
                "type": "outcome",
                "run_id": event.key.run,
                "call": str(event.key),
                "tool": event.tool,
                "status": event.result.status.value,
                "text": event.result.text,
            }
        case RunMoved():
            return {"type": "state", "run_id": event.run, "state": event.state, "detail": event.detail}
        case _:
            assert_never(event)


def _decision_json(decision: Decision) -> dict[str, JsonValue]:
    return {
        "effect": decision.effect.value,
        "rules": list(decision.rules),
        "reason": decision.reason,
        "instead": decision.instead,
        "policy_version": decision.policy_version,
    }


def _cut(text: str) -> str:
    flat = text.replace("\n", " ⏎ ").replace("\t", "    ")
    return flat if len(flat) <= _LINE_CHARS else flat[: _LINE_CHARS - 1] + "…"
