"""`ringfence doctor --prove`: what was tried from inside, and that the log keeps it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.cli.test_run import Person

pytestmark = pytest.mark.sandbox


def test_what_doctor_proved_is_shown_and_kept(tmp_path: Path) -> None:
    person = Person(tmp_path)
    done = person.types("doctor", "--prove", "--json")
    if done.returncode == 7:
        pytest.skip(f"no local sandbox here: {done.stdout.strip()}")
    shown = [record for record in person.records(done) if record["type"] == "probe"]
    assert len(shown) > 40
    assert all(record["is_held"] for record in shown)
    entries = person.records(person.types("audit", "query", "--kind", "sandbox.life", "--json"))
    (kept,) = [record["data"] for record in entries if record["type"] == "entry"]
    assert kept == {"action": "proved", "kind": "local", "probes": len(shown), "broken": []}
