"""Two workers over one local sandbox: only the one with the higher fence has a server, whatever the other does."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from ringfence_sandbox.contract import Backend, Bundle, CallId, Exec, SandboxId, SandboxSpec
from ringfence_sandbox.errors import IsolationUnavailable, SandboxGone, StaleFence
from ringfence_sandbox.local.backend import LocalBackend
from ringfence_sandbox.source import bundle_from_path
from tests.contracts.sandbox.repositories import make_repository


def spec(fence: int) -> SandboxSpec:
    return SandboxSpec(SandboxId("box-1"), fence=fence)


def sh(command: str, fence: int, n: int) -> Exec:
    return Exec(CallId(f"run/1/{n}/nonce"), fence, ("bash", "-c", command), timeout_s=30)


@pytest.fixture
async def two(tmp_path: Path) -> tuple[Backend, Backend, Bundle]:
    """Two workers' backends over one state folder: what each holds is unknown to the other."""
    first, second = LocalBackend(tmp_path / "state"), LocalBackend(tmp_path / "state")
    try:
        await first.check()
    except IsolationUnavailable as error:
        pytest.skip(f"no local sandbox here: {error}")
    return first, second, bundle_from_path(make_repository(tmp_path / "repository"), into=tmp_path)


async def test_a_worker_that_was_replaced_can_neither_act_nor_start_anew(two: tuple[Backend, Backend, Bundle]) -> None:
    first, second, bundle = two
    old = await first.create(spec(1))
    await old.load(bundle)
    endless = asyncio.create_task(old.perform(sh("while :; do echo x >> grows; sleep 0.01; done", 1, 0)))
    while not [file for file in await old.changed() if file.path == "grows"]:
        await asyncio.wait({endless}, timeout=0.01)
    new = await second.attach(spec(2))
    with pytest.raises(SandboxGone):
        await endless
    before = await new.changed()
    with pytest.raises(SandboxGone):
        await old.perform(sh("echo old >> README.md", 1, 1))
    with pytest.raises(StaleFence):
        await first.attach(spec(1))
    outcome = await new.perform(sh("echo alive", 2, 2))
    assert outcome.head == b"alive\n"
    assert await new.changed() == before
    await second.destroy(new.id)
    await first.close()
    await second.close()


async def test_a_server_that_another_worker_holds_ends_with_its_files(two: tuple[Backend, Backend, Bundle]) -> None:
    first, second, bundle = two
    old = await first.create(spec(1))
    await old.load(bundle)
    await second.destroy(old.id)
    with pytest.raises(SandboxGone):
        await old.perform(sh("true", 1, 0))
    await first.close()
    await second.close()


async def test_the_same_worker_goes_on_with_its_server_under_a_newer_fence(
    two: tuple[Backend, Backend, Bundle],
) -> None:
    first, second, bundle = two
    sandbox = await first.create(spec(1))
    await sandbox.load(bundle)
    assert await first.attach(spec(3)) is sandbox
    with pytest.raises(StaleFence):
        await second.attach(spec(2))
    assert (await sandbox.perform(sh("echo on", 3, 0))).head == b"on\n"
    await first.destroy(sandbox.id)
    await first.close()
    await second.close()


async def test_what_a_killed_server_left_half_done_stands_in_nobodys_way(
    two: tuple[Backend, Backend, Bundle], tmp_path: Path
) -> None:
    """Process numbers inside come again after each start, and so do the names that are made from them."""
    first, second, bundle = two
    sandbox = await first.create(spec(1))
    await sandbox.load(bundle)
    await sandbox.suspend()
    state = tmp_path / "state" / "sandboxes" / "box-1" / "state"
    for number in range(2, 40):
        (state / f"scratch-{number}").mkdir()
        shutil.chown(state / f"scratch-{number}", state.stat().st_uid, state.stat().st_gid)
    assert (await (await first.attach(spec(1))).diff()).data == b""
    await first.destroy(sandbox.id)
    await first.close()
    await second.close()
