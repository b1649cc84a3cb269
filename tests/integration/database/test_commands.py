"""The main job as a person types it, with the state in PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ringfence.cli import app
from tests.integration.cli.test_run import Person


class Colleague(Person):
    """Someone whose team shares a database."""

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder)
        self._url = url

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "RINGFENCE_DATABASE_URL": self._url}

    def asks(self, *words: str) -> str:
        """What a command says, run in this process: it starts no run."""
        done = CliRunner().invoke(app, words, env=dict(self.environment))
        assert done.exit_code == 0, done.output
        return done.stdout


@pytest.fixture
def colleague(tmp_path: Path, postgres_url: str) -> Colleague:
    found = Colleague(tmp_path, postgres_url)
    doctor = found.types("doctor")
    if doctor.returncode == 7:
        pytest.skip(f"no local sandbox here: {doctor.stdout.strip()}")
    return found


@pytest.mark.postgres
@pytest.mark.sandbox
def test_a_run_is_made_shown_and_proved_from_a_shared_database(colleague: Colleague) -> None:
    ran = colleague.types(*colleague.run_words())
    assert ran.returncode == 0, ran.stderr
    run = str(colleague.records(ran)[-1]["run_id"])
    assert not (colleague.home / "ringfence.db").exists()
    assert run in colleague.asks("runs", "list", "--json")
    assert colleague.asks("review", "list", "--json") == ""
    assert '"run.closed"' in colleague.asks("audit", "query", "--run", run, "--json")
    assert colleague.asks("audit", "verify").startswith("intact")
