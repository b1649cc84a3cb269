"""Budgets: reserved before, settled after, never overshot.

A reservation is one conditional update per scope and unit inside the caller's transaction, so that any number of
calls at once cannot pass a cap together. What is in flight counts. A scope is `run:ID` or `team:NAME:YYYY-MM`; a
holder (a call key, a model exchange) reserves once, and reserving again under the same holder changes nothing. What is
spent passes the mark of a scope (80 % unless it says otherwise) in exactly one settlement, and that one tells of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from sqlalchemy import Connection, bindparam, delete, exists, insert, select, update

from ringfence_audit.events import Event, Kind
from ringfence_audit.port import Transaction
from ringfence_audit.prepared import Prepared
from ringfence_tools.calls import RunId
from ringfence_tools.schema import budgets, reservations


class Unit(StrEnum):
    TOOL_CALLS = "tool_calls"
    TOKENS = "tokens"
    MICRO_USD = "micro_usd"
    WALL_MS = "wall_ms"


@dataclass(frozen=True, slots=True)
class Exceeded:
    """The cap that stood in the way. Nothing was reserved in any scope."""

    scope: str
    unit: Unit
    cap: int
    committed: int
    asked: int
    spent: int
    """What is committed for good; the rest of `committed` is in flight and may come back."""

    @property
    def is_in_flight(self) -> bool:
        """It would fit if nothing were in flight: trying again later can help without a higher cap."""
        return self.spent + self.asked <= self.cap

    def __str__(self) -> str:
        return f"{self.scope} has {self.cap - self.committed} of {self.cap} {self.unit} left, {self.asked} asked"


@dataclass(frozen=True, slots=True)
class Usage:
    cap: int
    reserved: int
    spent: int


@dataclass(frozen=True, slots=True)
class Mark:
    """What is spent in a scope has just passed its mark. The entry is written; this is for who tells people."""

    scope: str
    unit: Unit
    spent: int
    cap: int
    percent: int


def run_scope(run: RunId) -> str:
    return f"run:{run}"


def team_scope(team: str, at: datetime) -> str:
    """The scope of a team in the month of `at`, by UTC."""
    return f"team:{team}:{at.astimezone(UTC):%Y-%m}"


def next_month(at: datetime) -> datetime:
    """When the budgets of the month of `at` end, by UTC."""
    month = at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)


def open_budget(tx: Transaction, scope: str, caps: Mapping[Unit, int], *, warn_percent: int = 80) -> None:
    """Set the caps of a scope; a cap that exists is changed and what was spent stays. A unit not named is not held."""
    for unit, cap in caps.items():
        where = (budgets.c.scope == scope) & (budgets.c.unit == unit)
        if not tx.connection.execute(update(budgets).where(where).values(cap=cap)).rowcount:
            row = {"scope": scope, "unit": unit, "cap": cap, "reserved": 0, "spent": 0, "warn_percent": warn_percent}
            tx.connection.execute(insert(budgets).values(**row))


def ensure_budget(tx: Transaction, scope: str, caps: Mapping[Unit, int], *, warn_percent: int = 80) -> None:
    """Set caps where the scope has none yet: what a person changed since stands."""
    held = usage(tx.connection, scope)
    missing = {unit: cap for unit, cap in caps.items() if unit not in held}
    open_budget(tx, scope, missing, warn_percent=warn_percent)


_TAKE = Prepared(
    update(budgets)
    .where(
        budgets.c.scope == bindparam("in_scope"),
        budgets.c.unit == bindparam("in_unit"),
        budgets.c.spent + budgets.c.reserved + bindparam("amount") <= budgets.c.cap,
    )
    .values(reserved=budgets.c.reserved + bindparam("amount"))
)
_ROW = Prepared(
    select(budgets.c.cap, budgets.c.reserved, budgets.c.spent, budgets.c.warn_percent).where(
        budgets.c.scope == bindparam("in_scope"), budgets.c.unit == bindparam("in_unit")
    )
)
_HELD = Prepared(
    select(reservations.c.scope, reservations.c.unit, reservations.c.amount).where(
        reservations.c.holder == bindparam("in_holder")
    )
)
_CAPPED = Prepared(
    select(budgets.c.unit, exists().where(reservations.c.holder == bindparam("in_holder")).label("is_held")).where(
        budgets.c.scope == bindparam("in_scope")
    )
)
"""Which units a scope holds, and whether the holder has reserved already: one question for what is mostly no cap."""
_HOLD = Prepared(insert(reservations), columns=("holder", "scope", "unit", "amount"))
_LET_GO = Prepared(delete(reservations).where(reservations.c.holder == bindparam("in_holder")))
_GIVE_BACK = Prepared(
    update(budgets)
    .where(budgets.c.scope == bindparam("in_scope"), budgets.c.unit == bindparam("in_unit"))
    .values(reserved=budgets.c.reserved - bindparam("amount"), spent=budgets.c.spent + bindparam("actual"))
)


def reserve(tx: Transaction, scopes: Sequence[str], amounts: Mapping[Unit, int], *, holder: str) -> Exceeded | None:
    """Reserve every amount in every scope that caps its unit, or nothing and say which cap stood in the way."""
    taken: list[dict[str, str | int]] = []
    for scope in scopes:
        capped = _CAPPED.all(tx.connection, {"in_scope": scope, "in_holder": holder})
        if any(row.is_held for row in capped):
            return None
        units = {row.unit for row in capped}
        for unit, amount in amounts.items():
            if unit.value not in units:
                continue
            if _TAKE.change(tx.connection, {"in_scope": scope, "in_unit": unit.value, "amount": amount}):
                taken.append({"holder": holder, "scope": scope, "unit": unit.value, "amount": amount})
                continue
            row = _ROW.first(tx.connection, {"in_scope": scope, "in_unit": unit.value})
            if row is None:
                continue
            for part in taken:
                _return(tx, str(part["scope"]), str(part["unit"]), int(part["amount"]), actual=0)
            return Exceeded(scope, unit, row.cap, row.reserved + row.spent, amount, row.spent)
    if taken:
        _HOLD.many(tx.connection, taken)
    return None


def settle(tx: Transaction, holder: str, actual: Mapping[Unit, int]) -> tuple[Mark, ...]:
    """Turn a holder's reservation into what was really used; a unit not named counts as nothing used.

    Actual use above the reservation is recorded as it was: the truth of the record goes before the cap, and the next
    reservation is refused. Returns the marks that were passed, each of which is an entry.
    """
    rows = _HELD.all(tx.connection, {"in_holder": holder})
    marks = []
    for row in rows:
        used = actual.get(Unit(row.unit), 0)
        _return(tx, row.scope, row.unit, row.amount, actual=used)
        if used:
            marks += _marks(tx, holder, row.scope, row.unit, used=used)
    if rows:
        _LET_GO.change(tx.connection, {"in_holder": holder})
    return tuple(marks)


def _marks(tx: Transaction, holder: str, scope: str, unit: str, *, used: int) -> list[Mark]:
    row = _ROW.first(tx.connection, {"in_scope": scope, "in_unit": unit})
    if row is None or not (row.spent - used) * 100 < row.cap * row.warn_percent <= row.spent * 100:
        return []
    mark = Mark(scope, Unit(unit), row.spent, row.cap, row.warn_percent)
    data = {"action": "budget.mark", "scope": scope, "unit": unit, "spent": row.spent, "cap": row.cap}
    tx.record(Event(Kind.CONTROL, "system:budget", {**data, "percent": row.warn_percent}, run=holder.partition("/")[0]))
    return [mark]


def usage(connection: Connection, scope: str) -> dict[Unit, Usage]:
    rows = connection.execute(select(budgets).where(budgets.c.scope == scope)).all()
    return {Unit(row.unit): Usage(row.cap, row.reserved, row.spent) for row in rows}


def _return(tx: Transaction, scope: str, unit: str, amount: int, *, actual: int) -> None:
    _GIVE_BACK.change(tx.connection, {"in_scope": scope, "in_unit": unit, "amount": amount, "actual": actual})
