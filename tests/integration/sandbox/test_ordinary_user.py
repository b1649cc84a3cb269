"""The contract as an ordinary user of the machine: other paths of the backend, other powers of the kernel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.sandbox

NOBODY_ELSE = 61_234
PYTHON = Path("/usr/bin/python3")
CHOSEN = "fence or whole_tree or comes_back or come_back or every_probe or destroy or terminal or moved_once"


@pytest.fixture
def home() -> Iterator[Path]:
    """Not below pytest's own folder, which every other pytest of this machine closes to all but root."""
    with tempfile.TemporaryDirectory(prefix="ringfence-user-") as folder:
        os.chown(folder, NOBODY_ELSE, NOBODY_ELSE)
        yield Path(folder)


def test_the_contract_holds_for_an_ordinary_user(home: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("the suite runs as an ordinary user already")
    version = f"import sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    has_python = PYTHON.exists() and subprocess.run([PYTHON, "-c", version], check=False).returncode == 0
    if not has_python or shutil.which("setpriv") is None:
        pytest.skip("root's Python cannot be lent to another user, and the machine has none of its version")
    root = Path(__file__).resolve().parents[3]
    places = [str(root), *(str(root / name) for name in ("audit", "sandbox", "tools", "agents"))]
    paths = [*places, sysconfig.get_path("purelib")]
    environment = {"HOME": str(home), "TMPDIR": str(home), "PATH": os.defpath, "PYTHONPATH": ":".join(paths)}
    rank = ("setpriv", f"--reuid={NOBODY_ELSE}", f"--regid={NOBODY_ELSE}", "--clear-groups")
    suite = (
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--basetemp={home}/t",
        "tests/contracts/sandbox",
        "-k",
        CHOSEN,
    )
    done = subprocess.run(
        [*rank, str(PYTHON), *suite],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert "skipped" not in done.stdout, done.stdout
