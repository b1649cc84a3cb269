"""A real store on a SQLite file, with a clock that tests drive."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

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
def store(tmp_path: Path, clock: Clock) -> Iterator[SqlStore]:
    assert schema.calls.metadata is not None
    with SqlStore.open(
        f"sqlite:///{tmp_path}/log.db", signer=Signer.generate("test.example/log"), clock=clock
    ) as opened:
        opened.create_schema()
        yield opened
