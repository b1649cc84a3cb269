"""The main job on real programs: whatever the repository's shape and the endpoint's habits, a patch and a true log."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.cli.repositories import git
from tests.integration.programs.house import Person
from tests.integration.programs.more_shapes import MORE
from tests.integration.programs.server import STANDARD_TROUBLE, ModelServer, Style, serving
from tests.integration.programs.shapes import SUITE, Shape

pytestmark = pytest.mark.sandbox
STYLES = tuple(Style)
PROGRAMS = [
    pytest.param(number, shape, id=shape.name, marks=[pytest.mark.slow] if shape in MORE else [])
    for number, shape in enumerate((*SUITE, *MORE))
]


@pytest.mark.parametrize(("number", "shape"), PROGRAMS)
def test_a_program_ends_with_a_patch_that_turns_its_tests_green_and_a_log_of_exactly_its_calls(
    number: int, shape: Shape, tmp_path: Path
) -> None:
    if shutil.which(shape.test.split()[0]) is None:
        pytest.skip(f"{shape.test.split()[0]} is not installed")
    named = shape.make(tmp_path / "made")
    clean = tmp_path / "clean"
    git(tmp_path, "clone", "-q", str(shape.cloned(named)), str(clean))
    assert _tests(shape, clean) != 0
    person = Person(tmp_path)
    style = STYLES[number % len(STYLES)]
    trouble = STANDARD_TROUBLE if number % 2 else {}
    with serving(ModelServer(shape.turns(), style, trouble)) as server:
        done = person.types("run", "--repo", str(named), "--model", "coder", "--json", "mend it", model=server)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    result = done.records[-1]
    patch = Path(str(result["patch"]))
    git(tmp_path, "-C", str(clean), "apply", str(patch))
    assert _tests(shape, clean) == 0
    assert shape.expects in patch.read_text(errors="replace")
    _assert_the_log_is_true(person, server, shape)


def _tests(shape: Shape, folder: Path) -> int:
    return subprocess.run(["bash", "-c", shape.test], cwd=folder, capture_output=True, timeout=120).returncode


def _assert_the_log_is_true(person: Person, server: ModelServer, shape: Shape) -> None:
    assert person.types("audit", "verify").returncode == 0
    intents = person.entries("call.intent")
    assert [entry.data["tool"] for entry in intents] == server.calls
    assert len(person.entries("model.exchange")) == len(server.answered)
    assert len({entry.call for entry in intents}) == len(intents)
    outcomes = {entry.call: entry for entry in person.entries("call.outcome")}
    assert set(outcomes) == {entry.call for entry in intents}
    counted = outcomes[intents[-2].call].data["text"]
    assert str(counted).strip() == str(shape.command_count)
