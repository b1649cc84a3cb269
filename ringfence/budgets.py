"""`--budget` on the command line, as caps of a run."""

from __future__ import annotations

import re

from ringfence.errors import Mistake
from ringfence_tools.budget import Unit
from ringfence_tools.profile_model import RunBudget
from ringfence_tools.profile_units import parse_duration, parse_usd

_COUNT = re.compile(r"[1-9][0-9]{0,11}\Z")
_FIX = "Write dollars (2.50) or parts: usd=2.50,tool_calls=100,tokens=200000,wall=30m"


def caps_of(budget: RunBudget) -> dict[Unit, int]:
    """The profile's own caps."""
    caps = {Unit.TOOL_CALLS: budget.tool_calls, Unit.WALL_MS: budget.wall * 1000}
    if budget.usd is not None:
        caps[Unit.MICRO_USD] = budget.usd
    if budget.tokens is not None:
        caps[Unit.TOKENS] = budget.tokens
    return caps


def narrowed(budget: RunBudget, text: str | None) -> dict[Unit, int]:
    """The profile's caps, lowered to what `--budget` says. Raises `Mistake`, also where it asks for more."""
    caps = caps_of(budget)
    for unit, cap in _parse(text or "").items():
        if unit in caps and cap > caps[unit]:
            raise Mistake(
                f"--budget asks for more {unit.value} than the profile gives ({caps[unit]})",
                fix="Ask for less, or use a profile with a larger budget",
            )
        caps[unit] = cap
    return caps


def _parse(text: str) -> dict[Unit, int]:
    caps: dict[Unit, int] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, has_name, value = part.partition("=")
        if not has_name:
            name, value = "usd", part
        unit, cap = _one(name.strip(), value.strip())
        caps[unit] = cap
    return caps


def _one(name: str, value: str) -> tuple[Unit, int]:
    try:
        match name:
            case "usd":
                return Unit.MICRO_USD, parse_usd(value.removeprefix("$"))
            case "wall":
                return Unit.WALL_MS, parse_duration(value) * 1000
            case "tool_calls" | "tokens" if _COUNT.match(value):
                return (Unit.TOOL_CALLS if name == "tool_calls" else Unit.TOKENS), int(value)
            case _:
                raise Mistake(f"--budget {name}={value} cannot be read", fix=_FIX)
    except ValueError as error:
        raise Mistake(f"--budget {name}={value}: {error}", fix=_FIX) from error
