"""Budgets as people write them, and the one that a team shares for a month."""

from __future__ import annotations

import re

from ringfence.errors import Mistake, Refused
from ringfence_agents.runs import RunRecord
from ringfence_audit.port import Store, Transaction
from ringfence_tools.budget import Unit, ensure_budget, team_scope, usage
from ringfence_tools.profile import Profile
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
    for unit, cap in parse_caps(text or "").items():
        if unit in caps and cap > caps[unit]:
            raise Mistake(
                f"--budget asks for more {unit.value} than the profile gives ({caps[unit]})",
                fix="Ask for less, or use a profile with a larger budget",
            )
        caps[unit] = cap
    return caps


async def team_scopes(store: Store, profile: Profile, record: RunRecord) -> tuple[str, ...]:
    """The budget that the run's team shares this month, opened by the first run that has it; none without a team."""
    form, team = profile.budget.team_month, record.team
    if form is None or not team:
        return ()

    def work(tx: Transaction) -> tuple[str, ...]:
        scope = team_scope(team, tx.now)
        ensure_budget(tx, scope, {Unit.MICRO_USD: form.usd}, warn_percent=form.warn)
        return (scope,)

    return await store.write(work)


async def check_team(store: Store, profile: Profile, team: str) -> None:
    """Raises `Refused` where the profile opens no run once its team's budget is used up, and it is."""
    form = profile.budget.team_month
    if form is None or form.at_limit != "refuse" or not team:
        return

    def work(tx: Transaction) -> bool:
        held = usage(tx.connection, team_scope(team, tx.now)).get(Unit.MICRO_USD)
        return held is not None and held.spent >= held.cap

    if await store.write(work):
        raise Refused(
            f"team {team} has used up its budget of this month",
            fix=f"Wait for the next month, or raise it with `ringfence runs budget --team {team}`",
        )


def parse_caps(text: str) -> dict[Unit, int]:
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
