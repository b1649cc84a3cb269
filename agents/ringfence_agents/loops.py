"""Loops: whether a model asks for the same thing over and over. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from enum import StrEnum

from ringfence_agents.model import ModelCall

LONGEST_PERIOD = 4
KEPT_SIGNATURES = 32


class LoopVerdict(StrEnum):
    NONE = "none"
    NUDGE = "nudge"
    END = "end"


def signature(calls: Sequence[ModelCall]) -> str:
    """What a turn asks for, without the ids: equal text for equal calls."""
    asked = [[call.name, _canonical(call.arguments_text)] for call in calls]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]


def _canonical(text: str) -> str:
    try:
        return json.dumps(json.loads(text), sort_keys=True)
    except (ValueError, RecursionError):
        return text


def repetitions(recent: Sequence[str]) -> int:
    """How often the last block of 1 to 4 signatures stands in a row at the end; at least 1 where there is any."""
    best = 1 if recent else 0
    for period in range(1, LONGEST_PERIOD + 1):
        block = tuple(recent[-period:])
        if len(block) < period:
            break
        count, end = 1, len(recent) - period
        while end >= period and tuple(recent[end - period : end]) == block:
            count, end = count + 1, end - period
        best = max(best, count)
    return best


def judge_loop(recent: Sequence[str], *, nudge_at: int, end_at: int) -> LoopVerdict:
    """Nudge once when the repetition reaches `nudge_at`, end the run when it reaches `end_at`."""
    count = repetitions(recent)
    if count >= end_at:
        return LoopVerdict.END
    return LoopVerdict.NUDGE if count == nudge_at else LoopVerdict.NONE
