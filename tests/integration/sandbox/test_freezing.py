"""Processes that are hard to stop: they end with their tree, and nothing of them runs while all is to be still."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import PurePosixPath

import pytest

from ringfence_sandbox.contract import Ending, Exec, Write
from tests.contracts.sandbox.conftest import Box

pytestmark = pytest.mark.sandbox

HEADLESS = """
import ctypes, os, threading, time
def work():
    while True:
        with open("/workspace/beat", "a") as file:
            file.write("x")
        time.sleep(0.002)
threading.Thread(target=work).start()
while not os.path.exists("/workspace/beat"): pass
print("ready", flush=True)
ctypes.CDLL(None).syscall(60 if os.uname().machine == "x86_64" else 93, 0)  # exit(2): this thread alone
"""
WAKING = """
import ctypes, os, signal, time
signal.signal(signal.SIGCONT, lambda *_: None)  # a signal that is ignored comes once only
libc = ctypes.CDLL(None)
class Event(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("value", "high", "signal", "notify")] + [("rest", ctypes.c_long * 6)]
timer, often = ctypes.c_void_p(), (ctypes.c_long * 4)(0, 2000000, 0, 2000000)
if libc.timer_create(1, ctypes.byref(Event(0, 0, 18, 0)), ctypes.byref(timer)) == 0:
    libc.timer_settime(timer, 0, often, None)
import fcntl
try:
    fcntl.fcntl(0, 10, 18)
    print("another way to be woken")
except PermissionError:
    pass
print("ready", flush=True)
while True:
    with open("/workspace/beat", "a") as file:
        file.write("x")
    time.sleep(0.001)
"""
WAITING = """
import os
os.mkfifo("/tmp/door")
os.posix_spawn("/bin/true", ["true"], {}, file_actions=[(os.POSIX_SPAWN_OPEN, 0, "/tmp/door", os.O_RDONLY, 0)])
"""
SECOND_LOOK = "a=$(stat -c %s beat); sleep 0.1; [ $a = $(stat -c %s beat) ] && echo still || echo moving"


async def started(box: Box, program: str) -> None:
    await box.sandbox.perform(Write(box.call(), 1, PurePosixPath("/tmp/p.py"), program.encode()))
    await box.sh("(setsid python3 /tmp/p.py > /tmp/said 2>&1 &)")


async def until(box: Box, command: str) -> None:
    async with asyncio.timeout(15):
        while (await box.sh(f"{command} || ! sleep 0.01")).exit_code != 0:
            pass


async def test_a_process_whose_first_thread_has_ended_is_stopped_too(box: Box) -> None:
    await started(box, HEADLESS)
    await until(box, "grep -q ready /tmp/said && grep -q '^State:.Z' /proc/[0-9]*/status")
    sealed = {"/workspace/app.py": hashlib.sha256(b"x = 1\n").hexdigest()}
    action = Exec(box.call(), 1, ("bash", "-c", SECOND_LOOK), sealed=sealed)
    assert (await box.sandbox.perform(action)).head == b"still\n"
    assert await box.says(SECOND_LOOK) == "moving"


async def test_a_process_that_has_the_kernel_wake_it_stays_stopped(box: Box) -> None:
    await started(box, WAKING)
    await until(box, "grep -q ready /tmp/said")
    sealed = {"/workspace/app.py": hashlib.sha256(b"x = 1\n").hexdigest()}
    action = Exec(box.call(), 1, ("bash", "-c", SECOND_LOOK), sealed=sealed)
    assert (await box.sandbox.perform(action)).head == b"still\n"
    assert await box.says("grep another /tmp/said") == ""
    assert await box.says("timeout 1 sleep 5; echo $?") == "124"


async def test_a_patch_made_meanwhile_wakes_nothing_beside_an_approved_command(box: Box) -> None:
    await started(box, HEADLESS)
    await until(box, "grep -q ready /tmp/said")
    sealed = {"/workspace/app.py": hashlib.sha256(b"x = 1\n").hexdigest()}
    command = "echo begun; until [ -e /tmp/go ]; do sleep 0.01; done; " + SECOND_LOOK
    has_begun = asyncio.Event()
    action = Exec(box.call(), 1, ("bash", "-c", command), sealed=sealed)
    running = asyncio.create_task(box.sandbox.perform(action, on_output=lambda _: has_begun.set()))
    async with asyncio.timeout(15):
        await has_begun.wait()
        await box.sandbox.changed()
        await box.sandbox.perform(Write(box.call(), 1, PurePosixPath("/tmp/go"), b""))
        assert (await running).head == b"begun\nstill\n"
    assert await box.says(SECOND_LOOK) == "moving"


async def test_a_process_whose_first_thread_has_ended_ends_with_its_tree(box: Box) -> None:
    await box.sandbox.perform(Write(box.call(), 1, PurePosixPath("/tmp/p.py"), HEADLESS.encode()))
    outcome = await box.sh("python3 /tmp/p.py & wait; sleep 60", timeout_s=1.5)
    assert outcome.ending is Ending.TIMEOUT
    assert await box.says(SECOND_LOOK) == "still"


async def test_a_process_that_waits_for_a_child_to_begin_bars_no_patch(box: Box) -> None:
    await started(box, WAITING)
    await until(box, "grep -q '^State:.D' /proc/[0-9]*/status")
    await box.sh("echo new > new")
    assert b"+new" in (await box.sandbox.diff()).data
