"""`ringfence doctor --prove`: what was tried from inside, and that the log keeps it."""

from __future__ import annotations

import os
import subprocess
import sys
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


@pytest.mark.parametrize("command", [("doctor",), ("demo",), ("run", "--repo", ".", "--model", "x", "fix it")])
def test_a_machine_without_user_namespaces_is_told_its_one_fix_before_anything_is_prepared(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    """In a user namespace of this test's own, the one setting set to what some machines have."""
    closed = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    fenced = ("unshare", "--user", "--map-root-user", "sh", "-c", closed, "sh")
    if subprocess.run([*fenced, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may make no namespace to try it in")
    places = {"RINGFENCE_HOME": str(tmp_path / "home"), "RINGFENCE_CONFIG": str(tmp_path / "config")}
    done = subprocess.run(
        [*fenced, sys.executable, "-m", "ringfence", *command],
        env={**os.environ, **places},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 7, done.stdout + done.stderr
    assert "sudo sysctl -w user.max_user_namespaces=10000" in done.stdout + done.stderr
    assert not list(tmp_path.glob("home/sandboxes/*"))
