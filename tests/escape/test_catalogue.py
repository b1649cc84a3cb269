"""Programs that try to get out. Each is judged by what is so on the host, or by what it could read."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from ringfence_sandbox.contract import Ending
from tests.contracts.sandbox.conftest import Box

PY = "python3 -c"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.txt"
    path.write_text("the-host-secret")
    return path


async def test_no_file_of_the_host_is_read(box: Box, secret: Path) -> None:
    for path in (secret, Path("/etc/shadow"), Path("/root/.bashrc"), Path(f"/proc/{os.getpid()}/environ")):
        said = await box.says(f"cat {path} /proc/1/root{path} 2>&1; true")
        assert "the-host-secret" not in said
        assert "root:" not in said


async def test_nothing_outside_is_written(box: Box) -> None:
    for path in ("/usr/ringfence-escape", "/etc/ringfence-escape", "/ringfence-escape", "/dev/ringfence-escape"):
        outcome = await box.sh(f"echo x > {path}")
        assert outcome.exit_code != 0, path
        assert not Path(path).exists()


async def test_no_process_of_the_host_is_seen_or_signalled(box: Box) -> None:
    seen = (await box.says("ls /proc | grep -E '^[0-9]+$'")).split()
    assert len(seen) < 10
    assert (await box.sh(f"kill -0 {os.getpid()}")).exit_code != 0


async def test_a_listener_on_the_host_is_not_reached(box: Box) -> None:
    reached = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(3)

        def accept() -> None:
            try:
                server.accept()
                reached.set()
            except TimeoutError:
                return

        waiting = threading.Thread(target=accept)
        waiting.start()
        port = server.getsockname()[1]
        outcome = await box.sh(f"exec 3<>/dev/tcp/127.0.0.1/{port}")
        waiting.join()
    assert outcome.exit_code != 0
    assert not reached.is_set()


@pytest.mark.parametrize("name", ["example.org", "169.254.169.254", "10.0.0.1", "1.1.1.1"])
async def test_there_is_no_network_and_no_name_service(box: Box, name: str) -> None:
    code = f"import socket; socket.create_connection(('{name}', 80), 2)"
    assert (await box.sh(f'{PY} "{code}"')).exit_code != 0


@pytest.mark.parametrize("family", ["AF_PACKET", "AF_VSOCK", "AF_ALG", "AF_NETLINK_RAW_PACKET", "AF_BLUETOOTH"])
async def test_unusual_sockets_are_refused(box: Box, family: str) -> None:
    code = f"import socket; socket.socket(getattr(socket, '{family}'), socket.SOCK_RAW)"
    assert (await box.sh(f'{PY} "{code}"')).exit_code != 0


@pytest.mark.parametrize(
    "call",
    [
        "mount(b'none', b'/tmp', b'tmpfs', 0, None)",
        "unshare(0x10000000)",
        "ptrace(16, 1, 0, 0)",
        "syscall(425, 8, 0)",
        "syscall(250, 0, 0, 0, 0)",
        "syscall(321, 0, 0, 0)",
        "syscall(298, 0, 0, -1, -1, 0)",
        "syscall(323, 0)",
        "setuid(0)",
        "chroot(b'/tmp')",
    ],
)
async def test_kernel_interfaces_that_developers_never_need_are_refused(box: Box, call: str) -> None:
    code = f"import ctypes,sys; c=ctypes.CDLL(None, use_errno=True); sys.exit(0 if c.{call} >= 0 else 7)"
    outcome = await box.sh(f'{PY} "{code}"')
    assert outcome.exit_code == 7 or outcome.ending is Ending.SIGNALED


async def test_a_set_uid_program_gains_nothing(box: Box) -> None:
    assert await box.says("su -c id 2>&1 </dev/null; id -u") != "0"
    assert await box.says("grep NoNewPrivs /proc/self/status | tr -dc 0-9") == "1"
    assert await box.says("grep CapEff /proc/self/status | tr -d ' \\t' | cut -d: -f2") == "0" * 16


async def test_a_fork_bomb_is_contained_and_the_sandbox_still_works(box: Box) -> None:
    await box.sh("f() { f | f & }; f; sleep 2", timeout_s=3)
    assert await box.says("echo alive") == "alive"


async def test_a_memory_bomb_is_ended(box: Box) -> None:
    outcome = await box.sh(f'{PY} "x = [bytearray(64 << 20) for _ in range(64)]"')
    assert outcome.exit_code != 0 or outcome.ending is not Ending.DONE
    assert await box.says("echo alive") == "alive"


async def test_the_servers_memory_and_files_are_closed(box: Box) -> None:
    for path in ("/proc/1/mem", "/proc/1/environ", "/proc/1/fd/0", "/run/ringfence/state/journal"):
        assert (await box.sh(f"head -c1 {path}")).exit_code != 0, path
