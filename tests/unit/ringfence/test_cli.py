from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from ringfence.cli import app

HEAVY = ("rich", "sqlalchemy", "langgraph", "openai", "kubernetes", "pydantic", "cedarpy", "yaml", "asyncio")


def test_an_unknown_command_is_a_usage_error() -> None:
    result = CliRunner().invoke(app, ["fly"])
    assert result.exit_code == 2
    assert "No such command" in result.output


def _commands(command: object, name: str) -> Iterator[tuple[str, str]]:
    """Every command's full name with its help text."""
    yield name, str(getattr(command, "help", "") or "")
    for below, child in getattr(command, "commands", {}).items():
        yield from _commands(child, f"{name} {below}")


@pytest.mark.parametrize(("name", "text"), list(_commands(get_command(app), "ringfence")))
def test_every_command_has_one_line_of_help(name: str, text: str) -> None:
    assert text.strip(), name
    assert "\n" not in text.strip(), name


def test_the_shell_completes_commands() -> None:
    asked = {"_RINGFENCE_COMPLETE": "complete_bash", "COMP_WORDS": "ringfence runs w", "COMP_CWORD": "2"}
    command = [sys.executable, "-c", "from ringfence.cli import main; main()"]
    result = subprocess.run(command, env=asked, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout.split()) == (0, ["watch"])


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys
from ringfence.cli import app
try:
    app(["--help"])
except SystemExit:
    pass
loaded = [name for name in {HEAVY!r} if name in sys.modules]
sys.exit(f"loaded {{loaded}}" if loaded else 0)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert "Usage:" in result.stdout
