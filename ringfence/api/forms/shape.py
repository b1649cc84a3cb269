"""What the forms of the API are made of. Outside data enters by them, so extra keys are refused.

Times are ISO 8601 in UTC; money is integer micro-dollars. Text of models, tools, repositories and people is answered
as it is: whoever shows it must escape it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Generic, Literal, TypeVar

from fastapi import Path, Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, StringConstraints

from ringfence_audit.events import JsonValue
from ringfence_tools.clock import moment

T = TypeVar("T")
NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"
TEAM = r"^([a-z0-9][a-z0-9._-]{0,62}|\*)$"
Name = Annotated[str, StringConstraints(pattern=NAME)]
TeamName = Annotated[str, StringConstraints(pattern=TEAM)]
RunPath = Annotated[str, Path(pattern=r"^[a-z][a-z0-9]{0,23}$", description="A run's id")]
CardPath = Annotated[int, Path(ge=1, le=2**53, description="The number of E-…")]
NamePath = Annotated[str, Path(pattern=NAME)]
Limit = Annotated[int, Query(ge=1, le=200)]
TeamQuery = Annotated[str | None, Query(pattern=NAME, description="Only this team's")]
Line = Annotated[str, StringConstraints(max_length=500)]
Words = Annotated[str, StringConstraints(max_length=32_000)]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=r"\S")]


def _whole(value: object) -> object:
    """`5.0` is the integer 5 in JSON Schema."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _moment(value: object) -> object:
    """Tables hold microseconds since 1970."""
    return moment(value) if isinstance(value, int) else value


Whole = BeforeValidator(_whole)
At = Annotated[datetime, BeforeValidator(_moment)]


class Given(BaseModel):
    """What may be sent."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Answered(BaseModel):
    """What is answered; `model_validate` reads it off a value whose attributes are named alike."""

    model_config = ConfigDict(extra="forbid", frozen=True, from_attributes=True)


class PageOf(Answered, Generic[T]):
    """`next` is the `after` of the following page; null on the last."""

    items: list[T]
    next: str | None


def page(items: list[T], limit: int, next_of: str | None) -> PageOf[T]:
    return PageOf[T](items=items, next=next_of if len(items) == limit else None)


def json_of(value: BaseModel) -> dict[str, JsonValue]:
    """As stored for an idempotency key."""
    plain: dict[str, JsonValue] = value.model_dump(mode="json")
    return plain


class Done(Answered):
    ok: Literal[True] = True


class Because(Given):
    reason: Reason
