"""Repositories over ssh: what is refused, what ssh is told, and that the key stays where it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ringfence_sandbox.cloning import host_of
from ringfence_sandbox.contract import EgressRequest, EgressVerdict, SandboxId
from ringfence_sandbox.errors import WorkspaceRefused
from ringfence_sandbox.ssh_source import bundle_over_ssh, command_of, place_of
from tests.contracts.sandbox.repositories import git, make_repository

SERVES = """\
#!/bin/sh
echo "$@" >> "$(dirname "$0")/asked"
while [ "$1" != -- ]; do shift; done
exec sh -c "$3"
"""


class Gatekeeper:
    def __init__(self, *, is_open: bool = True) -> None:
        self.is_open = is_open
        self.asked: list[EgressRequest] = []
        self.received: list[int] = []

    async def admit(self, request: EgressRequest) -> EgressVerdict:
        self.asked.append(request)
        return EgressVerdict(is_allowed=self.is_open, rule="test", instead="")

    async def closed(self, request: EgressRequest, *, sent_bytes: int, received_bytes: int, duration_ms: int) -> None:
        self.received.append(received_bytes)


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "it's a remote")


def ssh(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str = SERVES) -> Path:
    """Put a program named ssh first on the PATH."""
    (folder / "bin").mkdir()
    program = folder / "bin" / "ssh"
    program.write_text(script)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program.parent / "asked"


@pytest.mark.parametrize(
    "url",
    [
        "ssh://-oProxyCommand=touch%20x/path",
        "ssh://host:99999/x",
        "ssh://user:secret@host/x",
        "ssh://-l@host/x",
        "ssh://host/",
        "ssh://host/a/../b",
        "ssh://host/a%0ab",
    ],
)
def test_urls_that_are_not_safe_for_ssh_are_refused(url: str) -> None:
    with pytest.raises(WorkspaceRefused):
        place_of(url)


@pytest.mark.parametrize("url", ["https://host/x", "file:///x", "/a/path", "-oProxyCommand=x:y"])
def test_other_words_are_no_ssh_urls(url: str) -> None:
    assert place_of(url) is None


@pytest.mark.parametrize("url", ["https://host/a/../b", "https://host/a/%2e%2E/b", "http://host/x", "git://host/x"])
def test_urls_that_are_not_cloned_are_refused(url: str) -> None:
    with pytest.raises(WorkspaceRefused):
        host_of(url)


def test_what_a_url_names_is_never_an_option_and_never_a_second_command() -> None:
    place = place_of("ssh://ana@host.example.org:2222/~/it's; rm -rf x")
    assert place is not None
    command = command_of(place, "/usr/bin/ssh")
    assert command[-3:] == ("--", "host.example.org", """git-upload-pack '~/it'"'"'s; rm -rf x'""")
    assert command[-7:-3] == ("-l", "ana", "-p", "2222")
    for option in ("-a", "BatchMode=yes", "StrictHostKeyChecking=yes", "ForwardAgent=no"):
        assert option in command


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo 'Host key verification failed.' >&2; exit 255", "connect once"),
        ("echo 'No host key is known.' >&2; sleep 0.3; echo 'Host key verification failed.' >&2", "connect once"),
        ("echo 'git@host: Permission denied (publickey).' >&2; exit 255", "ssh-add"),
        ("echo Welcome to our appliance", "does not answer as a git server"),
        ("printf '0000'", "no commit"),
        ("printf '0010ERR no such!'; exec sleep 60", "no such"),
        ("yes", "does not answer as a git server"),
        ("printf '00ff1234'", "broke off"),
    ],
)
async def test_a_server_that_does_not_serve_leaves_nothing(
    script: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh(tmp_path, monkeypatch, f"#!/bin/bash\n{script}\n")
    place = place_of("git@host.example.org:x.git")
    assert place is not None
    with pytest.raises(WorkspaceRefused, match=says):
        await bundle_over_ssh(place, into=tmp_path, sandbox=SandboxId("r1"), egress=Gatekeeper())
    assert not (tmp_path / "repository.bundle").exists()


async def test_nothing_is_connected_that_was_not_admitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ssh(tmp_path, monkeypatch)
    place = place_of("ssh://host.example.org/x")
    assert place is not None
    with pytest.raises(WorkspaceRefused, match="may not be reached"):
        await bundle_over_ssh(place, into=tmp_path, sandbox=SandboxId("r1"), egress=Gatekeeper(is_open=False))
    assert not asked.exists()


async def test_a_repository_comes_whole_as_a_bundle(
    remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ssh(tmp_path, monkeypatch)
    gatekeeper = Gatekeeper()
    place = place_of(f"ssh://host.example.org{remote}")
    assert place is not None
    (tmp_path / "in").mkdir()
    bundle = await bundle_over_ssh(place, into=tmp_path / "in", sandbox=SandboxId("r1"), egress=gatekeeper)
    assert (bundle.commit, bundle.branch) == (git(remote, "rev-parse", "HEAD"), "main")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "-b", "main", str(bundle.path), str(clone))
    assert (clone / "app.py").read_text() == "x = 1\n"
    assert "git-upload-pack" in asked.read_text()
    assert [(one.host, one.port) for one in gatekeeper.asked] == [("host.example.org", 22)]
    head = f"# v2 git bundle\n{bundle.commit} refs/heads/main\n\n"
    assert gatekeeper.received == [bundle.path.stat().st_size - len(head)]
