"""`ringfence db` as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner, Result

from ringfence.cli import app
from ringfence.errors import Mistake

pytestmark = pytest.mark.postgres


class Operator:
    """Someone at a shell whose team shares this database."""

    def __init__(self, home: Path, url: str) -> None:
        self._environment = {"RINGFENCE_HOME": str(home), "RINGFENCE_CONFIG": str(home), "RINGFENCE_DATABASE_URL": url}

    def types(self, *words: str) -> Result:
        return CliRunner().invoke(app, [*words, "--json"], env=self._environment)

    def told(self, *words: str) -> dict[str, object]:
        done = self.types(*words)
        assert done.exit_code == 0, done.output
        told: dict[str, object] = json.loads(done.stdout)
        return told


@pytest.fixture
def operator(tmp_path: Path, postgres_url: str) -> Operator:
    return Operator(tmp_path, postgres_url)


def test_a_release_that_is_too_old_for_the_tables_says_so(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    operator.told("db", "upgrade")
    monkeypatch.setattr("ringfence.database.version.HEAD", "0000")
    monkeypatch.setattr("ringfence.database.version.KNOWN", ("0000",))
    assert operator.told("db", "current")["standing"] == "newer"
    refused = operator.types("runs", "list")
    assert isinstance(refused.exception, Mistake)
    assert "newer Ringfence" in str(refused.exception)


def test_a_server_that_can_lose_what_was_acknowledged_is_pointed_out(operator: Operator, postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        shown = connection.execute("SHOW fsync").fetchone()
    told = operator.told("db", "current")["weaknesses"]
    assert ("fsync is off" in str(told)) == (shown == ("off",))


def test_the_tables_are_made_once_and_shown(operator: Operator) -> None:
    assert operator.told("db", "current")["standing"] == "empty"
    first = operator.told("db", "upgrade")
    assert (first["before"], operator.told("db", "upgrade")["before"]) == (None, first["version"])
    assert operator.told("db", "current")["standing"] == "current"
