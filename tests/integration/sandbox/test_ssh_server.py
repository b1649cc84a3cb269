"""A repository from a real OpenSSH server on loopback: host keys, people's keys and git's own upload-pack."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ringfence_sandbox.contract import SandboxId
from ringfence_sandbox.errors import WorkspaceRefused
from ringfence_sandbox.ssh_source import bundle_over_ssh, place_of
from tests.contracts.sandbox.repositories import git, make_repository
from tests.integration.sandbox.test_ssh_source import Gatekeeper

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = pytest.mark.skipif(SSHD is None or os.geteuid() != 0, reason="no OpenSSH server here, or not root")


@dataclass(frozen=True)
class Server:
    folder: Path
    port: int

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    def trust(self) -> None:
        """What connecting once and saying yes leaves with a person."""
        key = (self.folder / "host.pub").read_text()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {key}")

    def admit(self) -> None:
        shutil.copy(self.folder / "ana.pub", self.folder / "authorized_keys")


def _key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    folder = tmp_path / "ssh"
    folder.mkdir()
    for name in ("host", "ana"):
        _key(folder / name)
    server = Server(folder, _free_port())
    # The person's ssh, with the key and the known hosts of this test in place of those of who runs it.
    program = folder / "bin" / "ssh"
    program.parent.mkdir()
    options = f"-o UserKnownHostsFile={server.known_hosts} -o GlobalKnownHostsFile=/dev/null -o IdentitiesOnly=yes"
    program.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F /dev/null {options} -i {folder}/ana "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    settings = [
        f"ListenAddress=127.0.0.1:{server.port}",
        f"HostKey={folder}/host",
        f"AuthorizedKeysFile={folder}/authorized_keys",
        "PidFile=none",
        "UsePAM=no",
        "StrictModes=no",
        "PasswordAuthentication=no",
        "KbdInteractiveAuthentication=no",
        "PermitRootLogin=prohibit-password",
    ]
    Path("/run/sshd").mkdir(exist_ok=True)
    words = [SSHD, "-D", "-e", "-f", "/dev/null", *(word for one in settings for word in ("-o", one))]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen([str(word) for word in words], stderr=log) as process,
    ):
        _until_listening(process, server.port)
        yield server
        process.terminate()


def _until_listening(process: subprocess.Popen[bytes], port: int) -> None:
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError("sshd did not start")


async def _bundle(server: Server, remote: Path, into: Path) -> Path:
    place = place_of(f"ssh://root@127.0.0.1:{server.port}{remote}")
    assert place is not None
    into.mkdir(exist_ok=True)
    return (await bundle_over_ssh(place, into=into, sandbox=SandboxId("r1"), egress=Gatekeeper())).path


async def test_a_host_that_is_not_known_a_key_that_is_not_taken_and_then_the_repository(
    server: Server, tmp_path: Path
) -> None:
    remote = make_repository(tmp_path / "it's a remote")
    with pytest.raises(WorkspaceRefused, match="connect once"):
        await _bundle(server, remote, tmp_path / "in")
    server.trust()
    with pytest.raises(WorkspaceRefused, match="ssh-add"):
        await _bundle(server, remote, tmp_path / "in")
    server.admit()
    with pytest.raises(WorkspaceRefused, match="absent"):
        await _bundle(server, tmp_path / "absent", tmp_path / "in")
    bundle = await _bundle(server, remote, tmp_path / "in")
    git(tmp_path, "clone", "-q", "-b", "main", str(bundle), str(tmp_path / "clone"))
    assert git(tmp_path / "clone", "rev-parse", "HEAD") == git(remote, "rev-parse", "HEAD")


async def test_a_host_whose_key_changed_is_refused(server: Server, tmp_path: Path) -> None:
    server.admit()
    _key(server.folder / "other")
    other = (server.folder / "other.pub").read_text()
    server.known_hosts.write_text(f"[127.0.0.1]:{server.port} {other}")
    with pytest.raises(WorkspaceRefused):
        await _bundle(server, make_repository(tmp_path / "remote"), tmp_path / "in")
    assert not list((tmp_path / "in").iterdir())
