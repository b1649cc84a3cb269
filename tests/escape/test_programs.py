"""A catalogue of programs that want out, each judged by what is so on the host afterwards."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.contracts.sandbox.conftest import Box
from tests.escape import programs

pytestmark = pytest.mark.sandbox

SECRET = "the-secret-of-the-host-7d1f"
TOGETHER = 12
"""Programs that share one sandbox: each finds it as the ones before left it, as an agent would."""
TARGETS = ("/usr", "/etc", "/", "/dev", "/usr/local/bin")


@dataclass
class Host:
    """What a program may be after, planted on this machine, and how to see that it got there."""

    folder: Path
    port: int = 0
    pid: int = 0
    reached: list[str] = field(default_factory=list)
    is_reached: threading.Event = field(default_factory=threading.Event)

    @property
    def names(self) -> dict[str, str]:
        return {
            "secret": str(self.folder / "secret.txt"),
            "marker": str(self.folder / "marker"),
            "socket": str(self.folder / "listening.sock"),
            "port": str(self.port),
            "pid": str(self.pid),
        }

    def untouched(self) -> None:
        assert self.reached == []
        assert not (self.folder / "marker").exists()
        assert [place for place in TARGETS if Path(place, "ringfence-escape").exists()] == []
        assert socket.gethostname() != "ringfence-escape"
        assert Path(f"/proc/{self.pid}/stat").read_text().split(")")[1].split()[0] in "SRD"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    found = Host(tmp_path)
    (tmp_path / "secret.txt").write_text(SECRET)
    (tmp_path / "secret.txt").chmod(0o644)
    victim = subprocess.Popen(["sleep", "600"], env={"RINGFENCE_VICTIM": SECRET})
    found.pid = victim.pid
    is_over = threading.Event()
    listening = [
        socket.create_server(("0.0.0.0", 0)),
        socket.socket(socket.AF_UNIX),
        socket.socket(socket.AF_UNIX),
    ]
    found.port = listening[0].getsockname()[1]
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(("0.0.0.0", found.port))
    listening[1].bind(str(tmp_path / "listening.sock"))
    (tmp_path / "listening.sock").chmod(0o777)
    listening[2].bind("\0ringfence-escape")
    for one in listening[1:]:
        one.listen(8)

    def accept(one: socket.socket) -> None:
        one.settimeout(0.05)
        while not is_over.is_set():
            try:
                if one is datagrams:
                    one.recv(10)
                else:
                    one.accept()[0].close()
                found.reached.append(str(one))
                found.is_reached.set()
            except TimeoutError:
                continue

    waiting = [threading.Thread(target=accept, args=(one,)) for one in (*listening, datagrams)]
    for thread in waiting:
        thread.start()
    yield found
    is_over.set()
    for thread in waiting:
        thread.join()
    for one in (*listening, datagrams):
        one.close()
    victim.kill()
    victim.wait()


def batches() -> Iterator[tuple[str, dict[str, str]]]:
    for aim in ("READ", "WRITE", "SIGNAL", "CONNECT"):
        listed: dict[str, str] = getattr(programs, aim)
        names = list(listed)
        for at in range(0, len(names), TOGETHER):
            yield f"{aim.lower()}-{at // TOGETHER}", {name: listed[name] for name in names[at : at + TOGETHER]}


BATCHES = dict(batches())


def test_the_catalogue_is_broad() -> None:
    assert sum(len(batch) for batch in BATCHES.values()) + len(programs.SOURCES_C) >= 90


@pytest.mark.parametrize("batch", BATCHES)
async def test_no_program_of_the_catalogue_gets_out(batch: str, box: Box, host: Host) -> None:
    for name, text in BATCHES[batch].items():
        outcome = await box.sh(text.format_map(host.names) + "\ntrue", timeout_s=6)
        said = outcome.head + outcome.tail
        assert SECRET.encode() not in said, name
        assert b"root:$" not in said, name
        host.untouched()
    # What they wrote lies inside, and the sandbox still answers or is cleanly gone.
    assert await box.says("echo alive") == "alive"
    assert SECRET.encode() not in (await box.sandbox.diff()).data


@pytest.mark.parametrize("name", programs.SOURCES_C)
async def test_no_compiled_program_gets_out(name: str, box: Box, host: Host) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("there is no compiler")
    source = programs.SOURCES_C[name] % host.names
    built = await box.sh(f"cat > x.c <<'END'\n{source}\nEND\ngcc -pthread -w -o x x.c && ./x", timeout_s=15)
    assert SECRET.encode() not in built.head + built.tail
    host.untouched()


def test_planted_things_can_be_reached_where_there_is_no_fence(host: Host) -> None:
    """The catalogue's own check: in an open box the secret is read, the port answers and the marker is written."""
    text = (programs.READ["by its path"] + "\n" + programs.WRITE["by its path"]).format_map(host.names)
    done = subprocess.run(["bash", "-c", text], capture_output=True, check=False, cwd=host.folder)
    assert SECRET.encode() in done.stdout
    assert (host.folder / "marker").exists()
    subprocess.run(["bash", "-c", programs.CONNECT["on its port"].format_map(host.names)], check=True)
    assert host.is_reached.wait(5), "the planted listener is deaf"
