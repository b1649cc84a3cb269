"""Budgets: reserved before, settled after, never overshot.

A reservation is one conditional update per scope and unit inside the caller's transaction, so that any number of
calls at once cannot pass a cap together. What is in flight counts. A scope is `run:ID` or `team:NAME:YYYY-MM`; a
holder (a call key, a model exchange) reserves once, and reserving again under the same holder changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, bindparam, delete, insert, select, update

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

    def __str__(self) -> str:
        return f"{self.scope} has {self.cap - self.committed} of {self.cap} {self.unit} left, {self.asked} asked"


@dataclass(frozen=True, slots=True)
class Usage:
    cap: int
    reserved: int
    spent: int


def run_scope(run: RunId) -> str:
    return f"run:{run}"


def open_budget(tx: Transaction, scope: str, caps: Mapping[Unit, int]) -> None:
    """Set the caps of a scope; a cap that exists is changed and what was spent stays. A unit not named is not held."""
    for unit, cap in caps.items():
        where = (budgets.c.scope == scope) & (budgets.c.unit == unit)
        if not tx.connection.execute(update(budgets).where(where).values(cap=cap)).rowcount:
            tx.connection.execute(insert(budgets).values(scope=scope, unit=unit, cap=cap, reserved=0, spent=0))


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
    select(budgets.c.cap, budgets.c.reserved, budgets.c.spent).where(
        budgets.c.scope == bindparam("in_scope"), budgets.c.unit == bindparam("in_unit")
    )
)
_HELD = Prepared(
    select(reservations.c.scope, reservations.c.unit, reservations.c.amount).where(
        reservations.c.holder == bindparam("in_holder")
    )
)
_HOLD = Prepared(insert(reservations), columns=("holder", "scope", "unit", "amount"))
_LET_GO = Prepared(delete(reservations).where(reservations.c.holder == bindparam("in_holder")))
_GIVE_BACK = Prepared(
    update(budgets)
    .where(budgets.c.scope == bindparam("in_scope"), budgets.c.unit == bindparam("in_unit"))
    .values(reserved=budgets.c.reserved - bindparam("amount"), spent=budgets.c.spent + bindparam("actual"))
)


def reserve(tx: Transaction, scopes: Sequence[str], amounts: Mapping[Unit, int], *, holder: str) -> Exceeded | None:
    """Reserve every amount in every scope that caps its unit, or nothing and say which cap stood in the way."""
    if _HELD.first(tx.connection, {"in_holder": holder}) is not None:
        return None
    taken: list[dict[str, str | int]] = []
    for scope in scopes:
        for unit, amount in amounts.items():
            if _TAKE.change(tx.connection, {"in_scope": scope, "in_unit": unit.value, "amount": amount}):
                taken.append({"holder": holder, "scope": scope, "unit": unit.value, "amount": amount})
                continue
            row = _ROW.first(tx.connection, {"in_scope": scope, "in_unit": unit.value})
            if row is None:
                continue
            for part in taken:
                _return(tx, str(part["scope"]), str(part["unit"]), int(part["amount"]), actual=0)
            return Exceeded(scope, unit, row.cap, row.reserved + row.spent, amount)
    if taken:
        _HOLD.many(tx.connection, taken)
    return None


def settle(tx: Transaction, holder: str, actual: Mapping[Unit, int]) -> None:
    """Turn a holder's reservation into what was really used; a unit not named counts as nothing used.

    Actual use above the reservation is recorded as it was: the truth of the record goes before the cap, and the next
    reservation is refused.
    """
    rows = _HELD.all(tx.connection, {"in_holder": holder})
    for row in rows:
        _return(tx, row.scope, row.unit, row.amount, actual=actual.get(Unit(row.unit), 0))
    if rows:
        _LET_GO.change(tx.connection, {"in_holder": holder})


def usage(connection: Connection, scope: str) -> dict[Unit, Usage]:
    rows = connection.execute(select(budgets).where(budgets.c.scope == scope)).all()
    return {Unit(row.unit): Usage(row.cap, row.reserved, row.spent) for row in rows}


def _return(tx: Transaction, scope: str, unit: str, amount: int, *, actual: int) -> None:
    _GIVE_BACK.change(tx.connection, {"in_scope": scope, "in_unit": unit, "amount": amount, "actual": actual})
