"""What no sandbox is shown, whatever a PATH, a profile or a grant names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath

import pytest

from ringfence_sandbox.contract import CallId, Exec, Mount, Outcome, Sandbox, SandboxId, SandboxSpec
from ringfence_sandbox.errors import IsolationUnavailable, PathRefused
from ringfence_sandbox.local.backend import LocalBackend
from ringfence_sandbox.local.host_tree import toolchain_mounts

pytestmark = pytest.mark.sandbox
SPEC = SandboxSpec(SandboxId("withheld-1"))


def shown(path: Path) -> tuple[Mount, ...]:
    return (Mount(path, PurePosixPath("/opt/shown")),)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "parent" / "ringfence"
    home.mkdir(parents=True)
    (home / "audit.key").write_text("a private key")
    return home


@pytest.fixture
async def backend(tmp_path: Path, home: Path) -> AsyncIterator[LocalBackend]:
    backend = LocalBackend(home / "sandboxes", withheld=(home,))
    yield backend
    await backend.destroy(SPEC.id)
    await backend.close()


async def said(sandbox: Sandbox, command: str, number: int) -> Outcome:
    return await sandbox.perform(Exec(CallId(f"w/1/{number}/n"), 1, ("bash", "-c", command)))


@pytest.mark.parametrize("what", ["ringfence", "ringfence/audit.key", ".", "ringfence/../ringfence", "link"])
async def test_no_sandbox_starts_that_would_show_the_state_of_ringfence(
    what: str, backend: LocalBackend, home: Path
) -> None:
    (home.parent / "link").symlink_to(home)
    with pytest.raises(IsolationUnavailable, match="Ringfence's own"):
        await backend.create(SandboxSpec(SPEC.id, mounts=shown(home.parent / what)))


async def test_a_grant_does_not_show_it_and_the_sandbox_goes_on(backend: LocalBackend, home: Path) -> None:
    (home.parent / "other").mkdir()
    (home.parent / "other" / "file").write_text("for all")
    sandbox = await backend.create(SPEC)
    assert (await said(sandbox, "echo kept > /workspace/file", 0)).exit_code == 0
    for number, refused in enumerate((home, home / "audit.key", home.parent), 1):
        with pytest.raises(PathRefused, match="Ringfence's own"):
            await sandbox.remount(shown(refused))
        assert (await said(sandbox, "cat /workspace/file; ls /opt/shown 2>/dev/null", number)).head == b"kept\n"
    await sandbox.remount(shown(home.parent / "other"))
    assert (await said(sandbox, "cat /opt/shown/file", 9)).head == b"for all"


@pytest.mark.parametrize("mark", [".ssh", ".netrc", ".kube"])
def test_a_home_is_not_shown_because_the_path_names_its_programs(mark: str, tmp_path: Path) -> None:
    other = tmp_path / "ana"
    for name in ("bin", "lib"):
        (other / name).mkdir(parents=True)
    environment = {"HOME": str(tmp_path / "root"), "PATH": f"{other / 'bin'}:{other}"}
    assert [mount.source for mount in toolchain_mounts(environment, None).mounts] == [other]
    (other / mark).mkdir()
    assert toolchain_mounts(environment, None).mounts == ()
