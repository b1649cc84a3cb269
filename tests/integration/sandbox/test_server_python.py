"""Which interpreter serves inside: one that reads the code compiled for this process, and has all that it imports."""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path

import pytest

from ringfence_sandbox.artifact import sources
from ringfence_sandbox.local import system_tree

ALWAYS = {"__future__", "collections", "os", "signal", "stat", "sys", "time", "typing"}
"""Part of the interpreter itself, or needed to start it."""


@pytest.mark.parametrize(
    "program",
    ["#!/bin/sh\necho 00000000\n", "#!/bin/sh\nexit 1\n", "not a program\n"],
    ids=["other code", "a module is missing", "no program"],
)
def test_an_interpreter_that_does_not_fit_is_not_taken(program: str, tmp_path: Path) -> None:
    found = tmp_path / "python3"
    found.write_text(program)
    found.chmod(0o755)
    assert not system_tree._reads_our_code(str(found))
    assert not system_tree._reads_our_code(str(tmp_path / "absent"))


def test_this_interpreter_fits_and_some_interpreter_is_always_found() -> None:
    assert system_tree._reads_our_code(sys.executable)
    assert os.access(system_tree.server_python(), os.X_OK)


def test_every_module_that_the_server_imports_is_looked_for() -> None:
    imported: set[str] = set()
    for text in sources().values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                imported.add(node.module.partition(".")[0])
    assert imported - ALWAYS - set(system_tree.MODULES) == set()
