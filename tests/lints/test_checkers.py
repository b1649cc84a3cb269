"""The checkers that `make check` runs see what they are there to see: each is handed a violation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.lints.sources import ROOT

BIN = Path(sys.executable).parent


def _run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        ("BLE001", "try:\n    f()\nexcept Exception as e:\n    g(e)\n"),
        ("S110", "try:\n    f()\nexcept Exception:\n    pass\n"),
        ("S602", "import subprocess\n\nsubprocess.run(x, shell=True)\n"),
        ("S506", "import yaml\n\nyaml.load(x, Loader=yaml.Loader)\n"),
        ("DTZ005", "import datetime\n\ndatetime.datetime.now()\n"),
        ("T201", "print(1)\n"),
        ("INP001", "x = 1\n"),
    ],
)
def test_ruff_refuses_a_planted_violation(rule: str, source: str, tmp_path: Path) -> None:
    folder = tmp_path / "somewhere"
    folder.mkdir()
    (folder / "planted.py").write_text(source, encoding="utf-8")
    result = _run(
        str(BIN / "ruff"), "check", "--no-cache", "--config", str(ROOT / "pyproject.toml"), str(folder / "planted.py")
    )
    assert result.returncode == 1
    assert rule in result.stdout


@pytest.mark.parametrize(
    ("code", "source"),
    [
        ("no-untyped-def", "def f(x):\n    return x\n"),
        ("type-arg", "def f(x: list) -> None: ...\n"),
        ("no-any-return", "from typing import Any\n\n\ndef f(x: Any) -> int:\n    return x\n"),
    ],
)
def test_mypy_refuses_a_planted_violation(code: str, source: str, tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text(source, encoding="utf-8")
    result = _run(
        str(BIN / "mypy"),
        "--config-file",
        str(ROOT / "pyproject.toml"),
        "--cache-dir",
        str(tmp_path / "cache"),
        str(planted),
    )
    assert result.returncode == 1
    assert f"[{code}]" in result.stdout
