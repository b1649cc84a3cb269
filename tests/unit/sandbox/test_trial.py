"""What cannot have a fence is told from the cheapest sign of it, before anything is prepared."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringfence_sandbox.errors import IsolationUnavailable
from ringfence_sandbox.local.trial import try_first

FULL = "0 0 4294967295"
ONE_USER = "0 1000 1"


def machine(folder: Path, *, namespaces: str = "9000", uid_map: str = FULL) -> Path:
    for name, text in (("sys/user/max_user_namespaces", namespaces), ("self/uid_map", uid_map)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + "\n")
    return folder


def program(folder: Path, says: str) -> Path:
    path = folder / f"bwrap-{len(list(folder.iterdir()))}"
    path.write_text(f"#!/bin/sh\ntouch {folder}/ran\n[ -z '{says}' ] || {{ echo '{says}' >&2; exit 1; }}\n")
    path.chmod(0o755)
    return path


async def test_a_setting_that_allows_none_is_told_without_starting_anything(tmp_path: Path) -> None:
    found = program(tmp_path, "")
    with pytest.raises(IsolationUnavailable, match="max_user_namespaces=0") as refused:
        await try_first([found], uid=None, proc=machine(tmp_path, namespaces="0"))
    assert refused.value.fix == "sudo sysctl -w user.max_user_namespaces=10000"
    assert not (tmp_path / "ran").exists()


async def test_a_root_without_users_to_give_away_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(IsolationUnavailable, match="has no user to give") as refused:
        await try_first([program(tmp_path, "")], uid=2_000_000_000, proc=machine(tmp_path, uid_map=ONE_USER))
    assert refused.value.fix == "run Ringfence as an ordinary user"


async def test_it_is_refused_where_no_copy_of_bubblewrap_may_make_a_namespace(tmp_path: Path) -> None:
    both = [program(tmp_path, "bwrap: setting up uid map: Permission denied") for _ in range(2)]
    with pytest.raises(IsolationUnavailable, match="setting up uid map: Permission denied"):
        await try_first(both, uid=None, proc=machine(tmp_path))


async def test_one_copy_that_may_is_enough(tmp_path: Path) -> None:
    first = program(tmp_path, "bwrap: setting up uid map: Permission denied")
    await try_first([first, program(tmp_path, "")], uid=None, proc=machine(tmp_path))
