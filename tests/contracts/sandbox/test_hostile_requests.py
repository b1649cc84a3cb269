"""What a model writes into a call is text of any kind: it is refused as an outcome, and the sandbox goes on."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from ringfence_sandbox.contract import Ending, Exec, Move, Write
from ringfence_sandbox.errors import PathRefused
from tests.contracts.sandbox.conftest import Box

HALF = "half \ud800"
LONG = "x/" * 50_000 + "x"


async def test_a_path_that_nobody_could_write_down_is_refused_and_the_sandbox_goes_on(box: Box) -> None:
    for path in (HALF, LONG):
        with pytest.raises(PathRefused):
            await box.sandbox.read(PurePosixPath("/workspace", path))
        with pytest.raises(PathRefused):
            await box.sandbox.list(PurePosixPath("/workspace", path))
        for action in (
            Write(box.call(), 1, PurePosixPath("/workspace", path), b"x"),
            Move(box.call(), 1, PurePosixPath("/workspace", path), PurePosixPath("/workspace/y")),
            Exec(box.call(), 1, (path,)),
            Exec(box.call(), 1, ("echo", "x"), cwd=PurePosixPath("/workspace", path)),
        ):
            assert (await box.sandbox.perform(action)).ending is Ending.REFUSED, (path[:9], action)
    with pytest.raises(PathRefused):
        await box.sandbox.search(HALF, PurePosixPath("/workspace"))
    assert await box.says("echo alive; ls") == "alive\napp.py"
