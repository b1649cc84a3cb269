"""A real store on each kind of database in turn, with a clock that tests drive."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from ringfence_audit.keys import Signer
from ringfence_audit.store import SqlStore
from ringfence_tools import schema


class Clock:
    """Time that moves when told to."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database_url: str, clock: Clock) -> Iterator[SqlStore]:
    assert schema.calls.metadata is not None
    with SqlStore.open(database_url, signer=Signer.generate("test.example/log"), clock=clock) as opened:
        opened.create_schema()
        yield opened
