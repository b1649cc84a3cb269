"""What a sandbox proves of itself: each probe fails where its layer is gone, and what is missing refuses."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ringfence_sandbox.contract import Bundle, Layer, SandboxId, SandboxSpec
from ringfence_sandbox.errors import IsolationUnavailable
from ringfence_sandbox.inside import files, probes, probes_files
from ringfence_sandbox.inside.settings import Settings
from ringfence_sandbox.local.backend import LocalBackend, find_bwraps
from ringfence_sandbox.local.bwrap import Fence
from ringfence_sandbox.local.sandbox import LocalSandbox

pytestmark = pytest.mark.sandbox

KERNEL = (
    "mount", "umount", "open_tree", "chroot", "keyctl", "add_key", "request_key", "perf_event_open", "io_uring_setup",
    "userfaultfd", "process_vm_readv", "name_to_handle_at", "clock_settime", "clone3", "fanotify_init", "personality",
    "ptrace", "timer_create", "mq_notify",
)  # fmt: skip
WITHOUT: dict[str, tuple[dict[str, bool], set[str]]] = {
    "seccomp": (
        {"has_seccomp": False},
        {f"no-{name}" for name in KERNEL}
        | {"no-vsock", "no-netlink-but-routes", "no-unusual-socket-family", "no-input-into-terminals"},
    ),
    "seccomp and the bar on user namespaces": (
        {"has_seccomp": False, "disables_userns": False},
        {"no-nested-user-namespace"},
    ),
    "seccomp and the drop of capabilities": (
        {"has_seccomp": False, "disables_userns": False, "drops_capabilities": False},
        {"holds-no-capability", "no-nested-network-namespace"},
    ),
    "Landlock": (
        {"has_landlock": False},
        {"cannot-open-the-server's-journal", "cannot-link-the-server's-journal"},
    ),
    "Landlock and the server's hardening": (
        {"has_landlock": False, "hardens_server": False},
        {"cannot-open-the-server's-memory", "cannot-list-the-server's-descriptors"},
    ),
    "the network namespace": (
        {"has_network_namespace": False},
        {
            "has-no-interface-but-loopback", "has-no-way-out", "has-no-name-service", "has-no-metadata-service",
            "sees-no-abstract-sockets", "shares-no-namespace",
        },
    ),
    "the PID namespace": (
        {"has_pid_namespace": False},
        {"sees-only-its-own-processes", "cannot-signal-others"},
    ),
    "the IPC namespace": ({"has_ipc_namespace": False}, {"shares-no-memory"}),
    "the UTS namespace": ({"has_uts_namespace": False}, {"knows-no-host-name"}),
    "the read-only root": ({"is_root_readonly": False, "has_landlock": False}, {"cannot-write-the-root"}),
    "the read-only system": ({"is_system_readonly": False}, {"cannot-write-programs", "cannot-write-settings"}),
    "the minimal /dev": ({"has_own_devices": False}, {"cannot-write-devices", "has-only-harmless-devices"}),
    "the view of its own": ({"hides_host": False}, {"sees-only-what-was-mounted", "sees-only-its-own-root"}),
    "the covers over /proc": ({"hides_proc": False}, {"proc-tells-nothing-of-the-machine"}),
    "the absence of /sys": ({"hides_sys": False}, {"sys-tells-nothing-of-the-machine"}),
    "the limits": (
        {"has_limits": False},
        {"processes-are-limited", "memory-is-limited", "open-files-are-limited", "file-size-is-limited"},
    ),
    "the size of scratch": ({"sizes_scratch": False}, {"scratch-is-sized"}),
    "a user of its own": (
        {"has_own_uid": False},
        {"is-not-the-machine's-root", "cannot-write-the-kernel's-settings"},
    ),
}  # fmt: skip
OUTSIDE = {
    "gains-no-privilege", "cannot-become-root", "honours-no-set-uid-bit", "honours-no-device-file", "no-bpf",
    "no-init_module", "no-kexec_file_load", "no-reboot", "no-swapon", "no-sethostname", "no-entering-a-namespace",
    "no-packet-socket", "no-raw-socket", "no-raw-socket-v6", "cannot-go-before-others", "cannot-take-a-processor",
    "leaves-no-core-files", "cannot-raise-a-limit", "reads-no-secret-of-the-machine",
    "cannot-read-the-kernel's-memory",
}  # fmt: skip
"""Nothing that we may switch off holds these alone: they must fail where there is no sandbox at all."""
ELSEWHERE = {
    "reads-through-no-link", "writes-through-no-link", "inherits-no-descriptor", "sees-no-sockets-of-others",
    "no-kernel-crypto-socket", "knows-no-control-group", "has-no-way-out-v6",
}  # fmt: skip
"""Each has a test of its own below, since its layer is code of ours, or the machine decides whether it can fail."""
ABSENT = {"no-init_module": "/proc/modules", "no-kexec_file_load": "/sys/kernel/kexec_loaded"}
is_root = os.geteuid() == 0


@pytest.fixture(autouse=True)
def abstract_socket() -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"\0ringfence-test-{os.getpid()}")
        listening.listen(1)
        yield


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One state root for all: what a machine prepares once is prepared once."""
    return tmp_path_factory.mktemp("state")


def test_every_probe_has_a_test_in_which_it_fails() -> None:
    names = {probe.name for probe in probes.PROBES}
    tried = OUTSIDE | ELSEWHERE | {name for _, expected in WITHOUT.values() for name in expected}
    assert names == tried
    assert len(names) > 40


@pytest.mark.parametrize("layer", WITHOUT)
async def test_without_its_layer_a_probe_gets_through(layer: str, state: Path) -> None:
    switches, expected = WITHOUT[layer]
    if not is_root and "has_own_uid" in switches:
        pytest.skip("only a sandbox made by root has a user of its own")
    backend = LocalBackend(state, fence=Fence(**switches))
    spec = SandboxSpec(SandboxId("open-1"), is_reduced_allowed=True)
    with pytest.raises(IsolationUnavailable):
        await backend.create(replace(spec, is_reduced_allowed=False))
    try:
        sandbox = await backend.create(spec)
        proof = await sandbox.prove()
        assert not proof.is_held
        assert expected <= {probe.name for probe in proof.probes if not probe.is_held}
        # And a run with the reduced level says so.
        assert any(not found.is_held for found in sandbox.layers)
    finally:
        await backend.destroy(spec.id)
        await backend.close()


@pytest.mark.parametrize("name", sorted(OUTSIDE))
def test_outside_of_any_sandbox_a_probe_gets_through(name: str, tmp_path: Path) -> None:
    if not is_root:
        pytest.skip("an ordinary user of the machine is held by the machine")
    if name in ABSENT and not Path(ABSENT[name]).exists():
        pytest.skip("this kernel was built without it, so nothing can get through")
    if name == "cannot-raise-a-limit" and not _may_raise_limits():
        pytest.skip("not even root of this machine may raise a limit")
    assert not held_outside(name, tmp_path)


def _may_raise_limits() -> bool:
    status = Path("/proc/self/status").read_text()
    (held,) = [line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")]
    return bool(int(held, 16) >> 24 & 1)


def held_outside(name: str, folder: Path) -> bool:
    """The probe tried here, in a child of its own."""
    (probe,) = [probe for probe in probes.PROBES if probe.name == name]
    probe.needs_child = True
    settings = Settings({"workspace": str(folder), "state": str(folder / "state"), "fence": "linux"})
    return probes.attempted(probe, settings)[0]


def test_a_family_that_the_machine_knows_gets_through_outside(tmp_path: Path) -> None:
    try:
        socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET).close()
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            pytest.skip("this kernel does not know the family, so nothing can get through")
        raise
    assert not held_outside("no-kernel-crypto-socket", tmp_path)


def test_a_way_out_by_the_sixth_version_is_found_outside(tmp_path: Path) -> None:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect(("2001:db8::1", 443))
    except OSError:
        pytest.skip("this machine has no way out by IPv6")
    assert not held_outside("has-no-way-out-v6", tmp_path)


def test_a_control_group_is_known_outside(tmp_path: Path) -> None:
    if all(line.endswith(":/") for line in Path("/proc/self/cgroup").read_text().splitlines()):
        pytest.skip("this process is in the root of every hierarchy")
    assert not held_outside("knows-no-control-group", tmp_path)


def test_an_inherited_descriptor_is_found(tmp_path: Path) -> None:
    kept = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(kept, True)
    try:
        assert not held_outside("inherits-no-descriptor", tmp_path)
    finally:
        os.close(kept)


def test_a_socket_of_somebody_else_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_root:
        pytest.skip("only root can give a socket away")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "docker.sock"))
        os.chown(tmp_path / "docker.sock", 12345, 12345)
        monkeypatch.setattr("ringfence_sandbox.inside.probes_world.SOCKET_FOLDERS", (str(tmp_path),))
        assert not held_outside("sees-no-sockets-of-others", tmp_path)


def test_a_read_that_follows_links_everywhere_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "calls.journal").write_bytes(b"x")
    assert held_outside("reads-through-no-link", tmp_path)
    monkeypatch.setattr(files, "open_regular", lambda path, _: os.open(path, os.O_RDONLY))
    assert not held_outside("reads-through-no-link", tmp_path)


def test_a_write_that_follows_links_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert held_outside("writes-through-no-link", tmp_path)
    monkeypatch.setattr(files, "O_DIRECTORY_WALK", files.O_DIRECTORY_WALK & ~os.O_NOFOLLOW)
    monkeypatch.setattr(probes_files, "RACES", 20_000)
    assert not held_outside("writes-through-no-link", tmp_path)


async def test_a_run_whose_short_set_fails_does_not_start(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = LocalBackend(tmp_path / "state")
    spec = SandboxSpec(SandboxId("short-1"))
    try:
        sandbox = await backend.create(spec)
        assert isinstance(sandbox, LocalSandbox)
        await sandbox.load(bundle)
        (told,) = [layer for layer in sandbox.layers if layer.name == "proof of this run"]
        assert (told.is_held, told.detail.startswith("1")) == (True, True)
        await backend.destroy(spec.id)
        monkeypatch.setattr("ringfence_sandbox.answers.flag", lambda *_: False)
        again = await backend.create(spec)
        with pytest.raises(IsolationUnavailable, match=r"the probe [a-z'-]+ got through"):
            await again.load(bundle)
    finally:
        monkeypatch.undo()
        await backend.destroy(spec.id)
        await backend.close()


async def test_the_probe_that_failed_is_named_with_what_it_saw_and_what_to_do(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path / "state", fence=Fence(hides_sys=False))
    try:
        with pytest.raises(IsolationUnavailable) as refused:
            await backend.check()
    finally:
        await backend.close()
    assert refused.value.missing.startswith("the probe sees-only-what-was-mounted got through (seen: mounted: /sys")
    assert "sys-tells-nothing-of-the-machine" in refused.value.missing
    assert "doctor --prove" in refused.value.fix


async def test_the_whole_proof_is_made_once_for_a_boot_and_told(tmp_path: Path) -> None:
    layers: list[tuple[Layer, ...]] = []
    for number in range(2):
        backend = LocalBackend(tmp_path / "state")
        spec = SandboxSpec(SandboxId(f"once-{number}"))
        try:
            layers.append(tuple((await backend.create(spec)).layers))
        finally:
            await backend.destroy(spec.id)
            await backend.close()
    assert [any(layer.name == "proof of this machine" for layer in each) for each in layers] == [True, False]
    assert all(layer.is_held for each in layers for layer in each)


@pytest.mark.parametrize("is_other_sound", [False, True])
async def test_another_copy_of_bubblewrap_is_tried_with_the_full_stack_before_giving_up(
    is_other_sound: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied'\nexit 1\n")
    broken.chmod(0o755)
    others = find_bwraps() if is_other_sound else [broken]
    monkeypatch.setattr("ringfence_sandbox.local.backend.find_bwraps", lambda: [broken, *others])
    backend = LocalBackend(tmp_path / "state")
    try:
        if is_other_sound:
            assert all(layer.is_held for layer in await backend.check())
        else:
            with pytest.raises(IsolationUnavailable, match="uid map"):
                await backend.check()
    finally:
        await backend.close()


async def test_sandboxes_that_start_at_once_are_proved_once(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path / "state")
    specs = [SandboxSpec(SandboxId(f"at-once-{number}")) for number in range(4)]
    try:
        made = await asyncio.gather(*(backend.create(spec) for spec in specs))
        proofs = [layer for sandbox in made for layer in sandbox.layers if layer.name == "proof of this machine"]
        assert len(proofs) == 1
    finally:
        for spec in specs:
            await backend.destroy(spec.id)
        await backend.close()
