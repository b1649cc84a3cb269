"""Programs that fill the disk and keep whoever counts from seeing it: none gets far beyond its limit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ringfence_sandbox.contract import Bundle, Ending, Exec, Limits, Sandbox, SandboxId, SandboxSpec
from ringfence_sandbox.errors import IsolationUnavailable
from ringfence_sandbox.local import disk_image
from ringfence_sandbox.local.backend import LocalBackend
from ringfence_sandbox.local.bwrap import Fence
from tests.contracts.sandbox.conftest import Box

pytestmark = pytest.mark.sandbox

MIB = 1 << 20
LIMIT = 60 * MIB
FAR = 600 * MIB
LIMITS = Limits(disk_bytes=LIMIT, file_size_bytes=64 * MIB, processes=128, open_files=1024)
COMMON = """
import ctypes, mmap, os, signal, socket, struct, sys, time
PIECE = b"x" * (4 << 20)
def relatives():
    found, pid = set(), os.getpid()
    while pid > 1:
        found.add(pid)
        pid = int(open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[1])
    return found
def against_counting(number):
    mine = relatives()
    if os.fork() == 0:
        mine.add(os.getpid())
        while True:
            for name in os.listdir("/proc"):
                if name.isdigit() and int(name) not in mine and name != "1":
                    try: os.kill(int(name), number)
                    except OSError: pass
def fill(how, pieces=250):
    for number in range(pieces):
        how(number)
        time.sleep(0.004)
    time.sleep(30)
def named(number):
    with open(f"fill{number}", "wb") as file: file.write(PIECE)
held = []
def unnamed(number):
    held.append(os.open("passing", os.O_RDWR | os.O_CREAT))
    os.unlink("passing")
    os.write(held[-1], PIECE)
def mapped(number):
    unnamed(number)
    fd = held.pop()
    held.append(mmap.mmap(fd, len(PIECE)))
    os.close(fd)
"""
ATTACKS = {
    "stops who counts": "against_counting(signal.SIGSTOP); fill(named)",
    "ends who counts": "against_counting(signal.SIGKILL); fill(named)",
    "keeps a tree growing": """
for number in range(3):
    if os.fork() == 0:
        os.mkdir(f"tree{number}"); os.chdir(f"tree{number}")
        depth = 0
        while True:
            for name in range(40): os.mkdir(str(name))
            os.chdir("7"); depth += 1
            if depth == 60: os.chdir("../" * 60); depth = 0; os.rename("7", f"kept{time.monotonic_ns()}")
fill(named)
""",
    "moves away what is not counted yet": """
os.mkdir("a"); os.mkdir("b")
libc = ctypes.CDLL(None)
watch = libc.inotify_init()
names = {libc.inotify_add_watch(watch, name.encode(), 0x20): name for name in ("a", "b")}  # IN_OPEN
if os.fork() == 0:
    while True:
        opened = names[struct.unpack("iIII", os.read(watch, 4096)[:16])[0]]
        other = "b" if opened == "a" else "a"
        for name in os.listdir(other):
            os.rename(f"{other}/{name}", f"{opened}/{name}")
def both(number):
    with open(f"a/{number}", "wb") as file: file.write(PIECE)
fill(both)
""",
    "keeps no name": "fill(unnamed)",
    "keeps no descriptor": "fill(mapped)",
    "lets nobody see what it holds": "ctypes.CDLL(None).prctl(4, 0); fill(unnamed)",
    "closes folders": """
def closed(number):
    os.makedirs("closed", exist_ok=True); os.chmod("closed", 0o300)
    with open(f"closed/{number}", "wb") as file: file.write(PIECE)
fill(closed)
""",
}


ON_ITS_WAY = """
one, other = socket.socketpair()
def sent(number):
    unnamed(number)
    socket.send_fds(one, [b"x"], held)
    os.close(held.pop())
fill(sent)
"""
"""What only a disk of its own bounds: no count finds a file that is on its way through a socket."""
KINDS = ("watched", "own")


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One state root for all: what a machine prepares once is prepared once."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture
async def full(request: pytest.FixtureRequest, state: Path, bundle: Bundle) -> AsyncIterator[Box]:
    """A sandbox whose disk is of the kind that the test names."""
    has_own = request.param == "own"
    backend = LocalBackend(state, fence=Fence(has_own_disk=has_own))
    spec = SandboxSpec(SandboxId("full-1"), limits=LIMITS)
    try:
        sandbox = await backend.create(spec)
        if has_own and not has_own_disk(sandbox):
            pytest.skip("no sandbox has a disk of its own here")
        await sandbox.load(bundle)
        yield Box(backend, spec, sandbox)
    except IsolationUnavailable as error:
        pytest.skip(f"no local sandbox here: {error}")
    finally:
        await backend.destroy(spec.id)
        await backend.close()


def has_own_disk(sandbox: Sandbox) -> bool:
    (told,) = [layer.detail for layer in sandbox.layers if layer.name == "disk"]
    return told.startswith("a disk of its own")


def taken_by(box: Box, state: Path) -> int:
    """On the machine's disk, as long as nothing inside runs that holds files without a name."""
    folder = state / "sandboxes" / box.spec.id
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("full", "attack"),
    [*(("watched", text) for text in ATTACKS.values()), *(("own", text) for text in (*ATTACKS.values(), ON_ITS_WAY))],
    indirect=["full"],
    ids=[*(f"{name}, watched" for name in ATTACKS), *(f"{name}, own" for name in (*ATTACKS, "sends it away"))],
)
async def test_nobody_fills_the_disk_unseen(attack: str, full: Box, state: Path) -> None:
    program = ("python3", "-c", COMMON + attack)
    outcome = await full.sandbox.perform(Exec(full.call(), 1, program, timeout_s=25))
    assert outcome.ending is Ending.LIMIT, outcome
    assert outcome.detail.startswith("disk"), outcome
    assert taken_by(full, state) < FAR
    assert await full.says("echo alive") == "alive"


@pytest.mark.parametrize("full", ["own"], indirect=True)
async def test_a_disk_of_its_own_is_full_where_it_ends_whoever_watches(full: Box, state: Path) -> None:
    # One write after the other in less time than between two looks; what does not fit is refused by the kernel.
    code = "import os\nfor n in range(64): os.write(os.open(str(n), os.O_WRONLY | os.O_CREAT), bytes(60 << 20))"
    await full.sh(f"python3 -c '{code}'")
    assert taken_by(full, state) < LIMIT * 5 // 4 + 80 * MIB
    assert (await full.sh("rm -f [0-9]*; echo room > x")).exit_code == 0
    assert await full.says("cat x") == "room"


@pytest.mark.parametrize("full", ["own"], indirect=True)
async def test_what_lies_on_a_disk_of_its_own_is_there_after_a_pause(full: Box) -> None:
    await full.sh("echo kept > kept; echo home > ~/kept")
    await full.sandbox.suspend()
    full.sandbox = await full.backend.attach(full.spec)
    assert await full.says("cat kept ~/kept") == "kept\nhome"


@pytest.mark.parametrize("full", ["own"], indirect=True)
async def test_nobody_mounts_a_disk_that_somebody_has(full: Box, state: Path) -> None:
    folder = state / "sandboxes" / full.spec.id
    with pytest.raises(BlockingIOError):
        disk_image.mount(folder / disk_image.IMAGE, folder / disk_image.PLACE, 0)


@pytest.mark.parametrize("full", KINDS, indirect=True)
async def test_no_disk_is_taken_without_writing_it(full: Box) -> None:
    call = "l = c.CDLL(None, use_errno=True); print(l.fallocate(1, 0, c.c_long(0), c.c_long(9)), c.get_errno())"
    code = f"import ctypes as c; {call}"
    assert await full.says(f"python3 -c '{code}' 1<>x; python3 -c '{code}' 1<>x; cat x") == "-1 95"
    # What programs ask for instead works, if slower.
    code = 'import os; os.posix_fallocate(os.open("y", os.O_RDWR | os.O_CREAT), 0, 100000)'
    assert await full.says(f"python3 -c '{code}'; stat -c %s y") == "100000"
