"""What every backend promises of a run's files: they leave as one archive and come back in another sandbox."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from ringfence_sandbox.contract import Backend, Bundle, Ending, Sandbox, SandboxId, SandboxSpec
from ringfence_sandbox.errors import PathRefused, SandboxError, WorkspaceRefused
from tests.contracts.sandbox.conftest import Box

FILES = r"""
echo changed >> README.md; mkdir -p deep/er 'a b'; printf 'x\0y' > 'a b/bin'; ln -s /etc/hostname link; chmod 700 deep
echo ignored.log > .gitignore; echo secret > ignored.log; printf '#!/bin/sh\n' > run.sh; chmod 755 run.sh
git commit -qam work --author 'a <a@example.org>' 2>/dev/null; echo mine > ~/notes; touch -d @1700000000.5 'a b/bin'
mkfifo pipe
"""
CLOSED = "echo hidden > closed; chmod 000 closed; mkdir shut; echo x > shut/in; chmod 000 shut"
OPENED = "chmod 755 shut; chmod 644 closed; cat closed shut/in"
TOLD = "find . ~ -path ./.git -prune -o \\( -type p -o -print0 \\) | sort -z | xargs -0 stat -c '%n %F %a %s %Y'"


async def second(backend: Backend, bundle: Bundle) -> Sandbox:
    sandbox = await backend.create(SandboxSpec(SandboxId(f"box-{os.urandom(4).hex()}")))
    await sandbox.load(bundle)
    return sandbox


async def packed(sandbox: Sandbox, path: Path, *, stays_frozen: bool = False) -> Path:
    parts: list[bytes] = []
    assert await sandbox.pack(parts.append, stays_frozen=stays_frozen) == 0
    path.write_bytes(b"".join(parts))
    return path


async def test_a_hostile_archive_writes_nothing_outside_the_runs_files(
    box: Box, backend: Backend, bundle: Bundle, tmp_path: Path
) -> None:
    for name, kind, link in (
        ("run/ringfence/state/calls.journal", tarfile.REGTYPE, ""),
        ("workspace/../run/x", tarfile.REGTYPE, ""),
        ("workspace/dev", tarfile.CHRTYPE, ""),
        ("workspace/hard", tarfile.LNKTYPE, "/etc/passwd"),
    ):
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as archive:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, link
            archive.addfile(entry)
        hostile = tmp_path / "hostile.tar"
        hostile.write_bytes(data.getvalue())
        sandbox = await second(backend, bundle)
        with pytest.raises(PathRefused):
            await sandbox.unpack(hostile)
        await backend.destroy(sandbox.id)


async def test_what_is_no_archive_is_refused(box: Box, backend: Backend, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(b"noise" * 1000)
    sandbox = await second(backend, bundle)
    with pytest.raises(PathRefused):
        await sandbox.unpack(tmp_path / "noise")
    await backend.destroy(sandbox.id)


async def test_files_are_not_brought_in_once_something_has_run(box: Box, tmp_path: Path) -> None:
    archive = await packed(box.sandbox, tmp_path / "files")
    await box.sh("true")
    with pytest.raises(WorkspaceRefused):
        await box.sandbox.unpack(archive)
    with pytest.raises(WorkspaceRefused):
        await box.sandbox.apply(archive)


async def test_a_patch_that_does_not_fit_is_refused(box: Box, backend: Backend, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "patch").write_text("--- a/absent\n+++ b/absent\n@@ -1 +1 @@\n-a\n+b\n")
    sandbox = await second(backend, bundle)
    with pytest.raises(WorkspaceRefused):
        await sandbox.apply(tmp_path / "patch")
    await backend.destroy(sandbox.id)


async def test_all_files_come_back_in_another_sandbox(
    box: Box, backend: Backend, bundle: Bundle, tmp_path: Path
) -> None:
    await box.sh(FILES)
    patch, log = await box.sandbox.diff(), await box.says("git log --format=%s")
    told = await box.says(TOLD)
    archive = await packed(box.sandbox, tmp_path / "files")
    again = await second(backend, bundle)
    await again.unpack(archive)
    other = Box(backend, SandboxSpec(again.id), again)
    assert (await other.says(TOLD)).splitlines() == told.splitlines()
    assert await other.says("git log --format=%s") == log
    assert (await again.diff()).data == patch.data
    await backend.destroy(again.id)


async def test_what_its_owner_closed_comes_along(box: Box, backend: Backend, bundle: Bundle, tmp_path: Path) -> None:
    await box.sh(CLOSED)
    again = await second(backend, bundle)
    await again.unpack(await packed(box.sandbox, tmp_path / "files"))
    other = Box(backend, SandboxSpec(again.id), again)
    assert await other.says("stat -c %a closed shut") == "0\n0"
    assert await other.says(OPENED) == "hidden\nx"
    await backend.destroy(again.id)


async def test_the_patch_of_one_sandbox_makes_the_same_tree_in_another(
    box: Box, backend: Backend, bundle: Bundle, tmp_path: Path
) -> None:
    await box.sh(
        "rm README.md; printf 'a\\0b' > new.bin; printf 'no end' > x; chmod +x x; ln -s x y; mkdir d; echo 1 > d/f"
    )
    patch = await box.sandbox.diff()
    (tmp_path / "step.patch").write_bytes(patch.data)
    again = await second(backend, bundle)
    await again.apply(tmp_path / "step.patch")
    assert (await again.diff()).data == patch.data
    await backend.destroy(again.id)


async def test_an_empty_patch_changes_nothing(box: Box, backend: Backend, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    again = await second(backend, bundle)
    await again.apply(tmp_path / "empty")
    assert (await again.diff()).data == b""
    await backend.destroy(again.id)


async def test_what_is_sealed_stays_as_it_was_and_runs_no_more(box: Box, tmp_path: Path) -> None:
    running = asyncio.create_task(box.sh("while :; do echo x >> grows; done", timeout_s=60))
    while await box.sandbox.diff() and not (await box.sandbox.changed()):
        await asyncio.wait({running}, timeout=0.01)
    archive = await packed(box.sandbox, tmp_path / "sealed", stays_frozen=True)
    with tarfile.open(archive) as found:
        member = found.extractfile("workspace/grows")
        assert member is not None
        sealed = hashlib.sha256(member.read()).hexdigest()
    kept = await box.sandbox.changed()
    assert [file.sha256 for file in kept if file.path == "grows"] == [sealed]
    await box.sandbox.suspend()
    try:
        ended = await running
        assert ended.ending in (Ending.SIGNALED, Ending.INTERRUPTED)
    except SandboxError:
        assert running.done()
