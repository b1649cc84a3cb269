from __future__ import annotations

import subprocess
import sys

from typer.testing import CliRunner

from ringfence.cli import app

HEAVY = ("rich", "sqlalchemy", "langgraph", "openai", "kubernetes", "pydantic", "cedarpy", "yaml", "asyncio")


def test_an_unknown_command_is_a_usage_error() -> None:
    result = CliRunner().invoke(app, ["fly"])
    assert result.exit_code == 2
    assert "No such command" in result.output


def test_every_command_has_one_line_of_help() -> None:
    for command in app.registered_commands:
        assert command.help, command.name
        assert "\n" not in command.help.strip(), command.name
    for group in app.registered_groups:
        assert group.help, group.name


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
