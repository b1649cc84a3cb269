"""The patch holds every change, however it is timed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ringfence_sandbox.inside import deliverable, repository
from ringfence_sandbox.inside.settings import Settings
from ringfence_sandbox.source import bundle_from_path
from tests.contracts.sandbox.repositories import make_repository

if TYPE_CHECKING:
    from ringfence_sandbox.inside.wire import Header


def test_a_change_of_the_same_size_in_the_second_of_the_load_is_in_the_patch(tmp_path: Path) -> None:
    bundle = bundle_from_path(make_repository(tmp_path / "repository"), into=tmp_path)
    for attempt in range(20):
        place = tmp_path / str(attempt)
        settings = Settings({"workspace": str(place / "work"), "state": str(place / "state")})
        for folder in (settings.workspace, settings.state):
            Path(folder).mkdir(parents=True)
        repository.load(settings, str(bundle.path), bundle.commit, "main")
        changed = Path(settings.workspace, "app.py")
        before = changed.stat()
        changed.write_text("x = 2\n")
        os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
        is_same_second = int(changed.stat().st_ctime) == int(before.st_ctime)
        while time.time() < int(before.st_ctime) + 1.05:
            time.sleep(0.05)
        parts: list[bytes] = []

        def emit(_: Header, body: bytes, parts: list[bytes] = parts) -> None:
            parts.append(body)

        deliverable.diff(settings, emit)
        assert b"+x = 2" in b"".join(parts)
        if is_same_second:
            return
    raise AssertionError("this machine is too slow to change a file in the second of its load")
