"""What is too much is ended with its whole tree, the agent is told which limit, and the sandbox goes on."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from ringfence_sandbox.contract import Backend, Bundle, Ending, Exec, Limits, SandboxId, SandboxSpec
from tests.contracts.sandbox.conftest import Box

pytestmark = pytest.mark.sandbox

TIGHT = Limits(
    memory_bytes=200 << 20,
    disk_bytes=40 << 20,
    processes=64,
    file_size_bytes=16 << 20,
    tmp_bytes=32 << 20,
    output_bytes=2 << 20,
)


@pytest.fixture
async def tight(backend: Backend, bundle: Bundle) -> AsyncIterator[Box]:
    spec = SandboxSpec(SandboxId("tight-1"), limits=TIGHT)
    sandbox = await backend.create(spec)
    await sandbox.load(bundle)
    yield Box(backend, spec, sandbox)
    await backend.destroy(spec.id)


async def assert_usable(box: Box) -> None:
    assert await box.says("echo alive") == "alive"
    assert int(await box.says("ls /proc | grep -cE '^[0-9]+$'")) < 12


async def test_many_processes_that_share_the_memory_limit_are_ended_for_it(tight: Box) -> None:
    code = "import time; x = bytearray(b'x') * (90 << 20); time.sleep(30)"
    outcome = await tight.sh(f'for i in 1 2 3 4; do python3 -c "{code}" & done; wait')
    assert outcome.ending is Ending.LIMIT
    assert outcome.detail.startswith("memory")
    assert outcome.duration_ms < 10_000
    await assert_usable(tight)


async def test_memory_that_forked_children_share_counts_once(tight: Box) -> None:
    code = (
        "import os, time; x = bytearray(b'x') * (60 << 20)\n"
        "pids = [os.fork() for _ in range(1)]\n"
        "for _ in range(5):\n"
        "    if os.fork() == 0: time.sleep(0.6); os._exit(0)\n"
        "time.sleep(0.7)"
    )
    action = Exec(tight.call(), 1, ("python3", "-c", code))
    assert (await tight.sandbox.perform(action)).ending is Ending.DONE


async def test_memory_files_that_nobody_maps_count_too(tight: Box) -> None:
    code = (
        "import os, time\n"
        "fds = [os.memfd_create('x') for _ in range(40)]\n"
        "[os.write(fd, b'x' * (8 << 20)) for fd in fds]\n"
        "time.sleep(30)"
    )
    outcome = await tight.sandbox.perform(Exec(tight.call(), 1, ("python3", "-c", code)))
    assert outcome.ending is Ending.LIMIT
    assert outcome.detail.startswith("memory")


DEEP = (
    "import os\n"
    "for _ in range(1500): os.mkdir('ddd'); os.chdir('ddd')\n"
    "for n in range(40): open(str(n), 'wb').write(os.urandom(4000000))\n"
    "import time; time.sleep(30)"
)
CLOSED = "mkdir c; chmod 300 c; for i in $(seq 1 40); do head -c 4000000 /dev/urandom > c/$i || exit 1; done; sleep 30"


@pytest.mark.parametrize("argv", [("bash", "-c", CLOSED), ("python3", "-c", DEEP)], ids=["closed", "deep"])
async def test_a_disk_filled_where_nobody_can_look_is_counted(tight: Box, argv: tuple[str, ...]) -> None:
    outcome = await tight.sandbox.perform(Exec(tight.call(), 1, argv))
    assert outcome.ending is Ending.LIMIT, outcome
    assert outcome.detail.startswith("disk")
    await tight.backend.destroy(tight.spec.id)
    assert await tight.backend.sweep(frozenset()) == []


async def test_a_disk_filler_is_ended_and_can_be_tidied_up(tight: Box) -> None:
    fill = "for i in $(seq 1 400); do head -c 4000000 /dev/urandom > fill$i || exit 1; done; sleep 20"
    outcome = await tight.sh(fill)
    assert outcome.ending is Ending.LIMIT
    assert outcome.detail.startswith("disk")
    assert (await tight.sh("rm -f fill*")).ending is Ending.DONE
    await assert_usable(tight)


async def test_a_file_that_grows_too_large_ends_its_program(tight: Box) -> None:
    action = Exec(tight.call(), 1, ("dd", "if=/dev/zero", "of=/workspace/large", "bs=1M", "count=40"))
    outcome = await tight.sandbox.perform(action)
    assert outcome.ending is Ending.LIMIT
    assert outcome.detail.startswith("file size")


async def test_tmp_is_only_as_large_as_allowed(tight: Box) -> None:
    said = await tight.says("for i in 1 2 3 4 5; do head -c 12000000 /dev/zero > /tmp/x$i; done 2>&1")
    assert "No space left" in said


async def test_a_fork_bomb_is_ended_for_the_process_limit(tight: Box) -> None:
    outcome = await tight.sh("f() { f | f; }; f", timeout_s=30)
    assert outcome.ending is Ending.LIMIT
    assert outcome.detail.startswith("processes")
    await assert_usable(tight)


async def test_more_open_files_than_allowed_cannot_be_had(tight: Box) -> None:
    few = replace(tight.spec, id=SandboxId("few-1"), limits=replace(TIGHT, open_files=32))
    sandbox = await tight.backend.create(few)
    try:
        code = "import os; [os.dup(0) for _ in range(64)]"
        outcome = await sandbox.perform(Exec(tight.call(), 1, ("python3", "-c", code)))
        assert b"Too many open files" in outcome.head
    finally:
        await tight.backend.destroy(few.id)


async def test_an_output_flood_is_ended_and_told(tight: Box) -> None:
    outcome = await tight.sh("yes flood")
    assert outcome.ending is Ending.LIMIT
    assert outcome.detail.startswith("output")
    assert len(outcome.head) + len(outcome.tail) <= 64 << 10
    kept = await tight.says(f"wc -c < {outcome.output_path}")
    assert int(kept) == TIGHT.output_bytes


async def test_a_program_that_ignores_every_signal_ends_at_its_time(tight: Box) -> None:
    action = Exec(tight.call(), 1, ("bash", "-c", "trap '' TERM INT HUP; while :; do :; done"), timeout_s=0.3)
    outcome = await tight.sandbox.perform(action)
    assert outcome.ending is Ending.TIMEOUT
    assert outcome.duration_ms < 1000
    await assert_usable(tight)


async def test_what_an_earlier_call_left_is_ended_when_it_outgrows_the_sandbox(tight: Box) -> None:
    code = "import time; time.sleep(0.3); x = bytearray(b'x') * (150 << 20); time.sleep(60)"
    await tight.sh(f'for i in 1 2; do python3 -c "{code}" >/dev/null 2>&1 & done')
    assert "time.sleep(60)" not in await tight.says("sleep 2; cat /proc/[0-9]*/cmdline | tr '\\0' ' '")


async def test_a_disk_filler_is_ended_before_the_machines_disk_is_full(
    tight: Box, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = os.statvfs(tmp_path)
    # As if all that is free now were to be kept for the machine.
    monkeypatch.setattr("ringfence_sandbox.local.backend.DISK_RESERVE_BYTES", system.f_bavail * system.f_frsize)
    monkeypatch.setattr("ringfence_sandbox.local.backend.RESERVE_PART", 1)
    spec = replace(tight.spec, id=SandboxId("scarce-1"), limits=replace(TIGHT, disk_bytes=8 << 30))
    sandbox = await tight.backend.create(spec)
    try:
        await sandbox.load(bundle)
        fill = "for i in $(seq 1 100); do head -c 4000000 /dev/zero > fill$i || exit 1; done; sleep 20"
        outcome = await sandbox.perform(Exec(tight.call(), 1, ("bash", "-c", fill), timeout_s=60))
        assert outcome.ending is Ending.LIMIT
        assert outcome.detail.endswith("the machine's disk has no more to spare")
        tidied = await sandbox.perform(Exec(tight.call(), 1, ("bash", "-c", "rm -f fill*; echo small > x; sleep 0.5")))
        assert tidied.ending is Ending.DONE
    finally:
        await tight.backend.destroy(spec.id)
