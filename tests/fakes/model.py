"""A model that says what a test wrote down. It counts how often it was asked, so that no answer is paid twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from ringfence_agents.errors import ModelError
from ringfence_agents.model import Answer, ModelCall, ModelRequest, OnDelta, Prices, Usage
from ringfence_audit.events import JsonValue

Scripted: TypeAlias = Answer | ModelError | Callable[[ModelRequest], Answer]


def call(name: str, arguments: Mapping[str, JsonValue] | str, *, id: str = "call_0") -> ModelCall:
    return ModelCall(id, name, arguments if isinstance(arguments, str) else json.dumps(arguments))


def says(content: str = "", *calls: ModelCall, finish_reason: str = "", tokens: int = 10) -> Answer:
    reason = finish_reason or ("tool_calls" if calls else "stop")
    return Answer(content, calls, Usage(tokens * 10, tokens), reason, model="scripted")


def finishes(summary: str = "done", status: str = "success") -> Answer:
    return says("", call("finish", {"summary": summary, "status": status}, id="call_finish"))


@dataclass
class ScriptedModel:
    """Answers by the run's turn: `script[turn - 1]`; the last entry stands for every later turn."""

    script: Sequence[Scripted]
    name: str = "scripted"
    window_tokens: int = 100_000
    max_output_tokens: int = 1_000
    prices: Prices = field(default_factory=lambda: Prices(input=1_000_000, output=2_000_000))
    is_replay: bool = False
    asked: list[ModelRequest] = field(default_factory=list)

    async def answer(self, request: ModelRequest, on_delta: OnDelta) -> Answer:
        self.asked.append(request)
        entry = self.script[min(request.turn, len(self.script)) - 1]
        if isinstance(entry, ModelError):
            raise entry
        answer = entry if isinstance(entry, Answer) else entry(request)
        on_delta(answer.content)
        return answer
