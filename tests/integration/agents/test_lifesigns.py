"""Whether a worker's process has ended: never said of one that lives, is elsewhere, or cannot be told."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Update, update

from ringfence_agents.errors import RunHeld
from ringfence_agents.leases import Lease, claim, claim_waiting, renew, shorten
from ringfence_agents.lifesigns import PROC, has_ended, worker_name
from ringfence_agents.runs import RunState, SandboxState
from ringfence_agents.schema import runs
from ringfence_audit.port import Transaction
from tests.fakes.model import ScriptedModel, finishes
from tests.integration.agents.house import RUN, House

NAMING = """
import sys
from ringfence_agents.lifesigns import worker_name
print(worker_name("host", "0123"), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def house(tmp_path: Path, database_url: str) -> Iterator[House]:
    house = House.build(tmp_path, url=database_url)
    with house.store:
        yield house


@pytest.fixture
def other() -> Iterator[subprocess.Popen[str]]:
    """A process that has told its name and waits."""
    words = [sys.executable, "-c", NAMING]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def told(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    """Kill it and wait for that, and leave it a zombie."""
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def test_a_process_that_lives_or_only_stands_still_has_not_ended(other: subprocess.Popen[str]) -> None:
    name = told(other)
    assert not has_ended(name)
    other.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, other.pid, os.WSTOPPED | os.WNOWAIT)
    assert not has_ended(name)
    assert not has_ended(worker_name("host", "0123"))


def test_a_killed_process_has_ended_before_and_after_its_parent_asked(other: subprocess.Popen[str]) -> None:
    name = told(other)
    end(other)
    assert has_ended(name)
    other.wait()
    assert has_ended(name)


def test_a_pid_that_another_process_has_got_does_not_keep_the_first_alive() -> None:
    host, pid, place, start, nonce = worker_name("host", "0123").split("-")
    assert has_ended("-".join((host, pid, place, str(int(start) - 1), nonce)))


@pytest.mark.parametrize(
    "form",
    ["", "w1", "host-{pid}-0123", "host-{pid}-{elsewhere}-{start}-0123", "host-0-{place}-{start}-0123",
     "host-{pid}-{place}-{start}-0123\n", "host-{pid}-{place}-{start}-0123-extra",
     "host-{pid}-{place}-{start}-", "{pid}-{place}-{start}-0123", "host-99999999999-{place}-{start}-0123",
     "host-{pid}-{place}-{start}-0123-{pid}-{elsewhere}-{start}-0123", "host-٣-{place}-{start}-0123"],
)  # fmt: skip
def test_a_name_that_does_not_tell_a_process_of_this_place_is_never_judged(
    other: subprocess.Popen[str], form: str
) -> None:
    _, pid, place, start, _ = told(other).split("-")
    end(other)
    other.wait()
    name = form.format(pid=pid, place=place, elsewhere="0" * 24, start=start)
    assert not has_ended(name)


def test_a_host_that_is_called_like_a_dead_worker_is_not_one(other: subprocess.Popen[str]) -> None:
    dead = told(other)
    end(other)
    assert not has_ended(worker_name(dead, "0123"))


def of_another(folder: Path, *, boot: str = "", numbers: str = "") -> Path:
    """A `/proc` as seen after another boot, or from an outer pid namespace."""
    (folder / "sys/kernel/random").mkdir(parents=True)
    (folder / "sys/kernel/random/boot_id").write_text(boot or (PROC / "sys/kernel/random/boot_id").read_text())
    own = folder / "self"
    (own / "ns").mkdir(parents=True)
    for name in ("pid", "time"):
        (own / "ns" / name).symlink_to((PROC / "self/ns" / name).readlink())
    (own / "status").write_text(f"Name:\tpython\nNSpid:\t{numbers or os.getpid()}\n")
    shutil.copyfile(PROC / "self/stat", own / "stat")
    (folder / str(os.getpid())).symlink_to("self")
    return folder


def test_another_boot_or_a_proc_of_another_namespace_judges_nobody(
    other: subprocess.Popen[str], tmp_path: Path
) -> None:
    name = told(other)
    end(other)
    other.wait()
    assert has_ended(name, proc=of_another(tmp_path / "same"))
    rebooted = of_another(tmp_path / "boot", boot="00000000-0000-0000-0000-000000000000\n")
    outer = of_another(tmp_path / "outer", numbers=f"4711 {os.getpid()}")
    assert not has_ended(name, proc=rebooted)
    assert not has_ended(name, proc=outer)
    assert not has_ended(name, proc=tmp_path / "none")
    assert worker_name("host", "0123", proc=outer) == f"host-{os.getpid()}-0123"


async def test_a_run_is_taken_from_a_dead_process_at_once_and_from_a_living_one_never(
    house: House, other: subprocess.Popen[str]
) -> None:
    name = told(other)
    await house.open()
    held = await house.store.write(lambda tx: claim(tx, RUN, name, lease_s=30))
    runner = house.runner(ScriptedModel([finishes()]))
    with pytest.raises(RunHeld, match="is held by host-"):
        await runner.drive(RUN)
    end(other)
    assert await runner.drive(RUN) is RunState.FINISHED
    assert (await house.record()).fence > held.fence


async def test_only_the_runs_of_the_dead_are_freed(house: House, other: subprocess.Popen[str]) -> None:
    name = told(other)
    await house.open()
    await house.store.write(lambda tx: claim(tx, RUN, worker_name("host", "4567"), lease_s=30))
    end(other)
    assert has_ended(name)
    assert await house.runner(ScriptedModel([finishes()])).mend_leases() == 0
    with pytest.raises(RunHeld):
        await house.runner(ScriptedModel([finishes()])).drive(RUN)


async def test_a_clock_that_jumped_back_keeps_a_dead_workers_run_for_one_lease_and_no_longer(house: House) -> None:
    await house.open()
    held = await house.store.write(lambda tx: claim(tx, RUN, "w0", lease_s=30))
    house.clock.pass_s(-7 * 24 * 3600)
    runner = house.runner(ScriptedModel([finishes()]))
    for passed_s in (0, 29):
        house.clock.pass_s(passed_s)
        with pytest.raises(RunHeld, match="w0"):
            await runner.drive(RUN)
    house.clock.pass_s(2)
    assert await runner.drive(RUN) is RunState.FINISHED
    assert (await house.record()).fence == held.fence + 1


async def test_a_clock_that_jumped_back_takes_nothing_from_a_worker_that_renews(house: House) -> None:
    await house.open()
    held = await house.store.write(lambda tx: claim(tx, RUN, "w0", lease_s=30))
    lease = Lease(RUN, "w0", held.fence)
    house.clock.pass_s(-3600)
    runner = house.runner(ScriptedModel([finishes()]))
    for _ in range(4):
        assert await runner.mend_leases() == 0
        assert await house.store.write(lambda tx: renew(tx, {lease: 0}, lease_s=30)) == frozenset()
        house.clock.pass_s(25)
        with pytest.raises(RunHeld, match="w0"):
            await runner.drive(RUN)


def _execute(tx: Transaction, *, statement: Update) -> None:
    tx.connection.execute(statement)


async def test_the_longer_lease_of_who_keeps_files_is_not_shortened_to_that_of_a_run(house: House) -> None:
    await house.open()
    waits = {"state": RunState.PARKED.value, "sandbox_state": SandboxState.READY.value}
    await house.store.write(lambda tx: tx.connection.execute(update(runs).values(waits)))
    assert await house.store.write(lambda tx: claim_waiting(tx, RUN, "w9", lease_s=120)) is not None
    for state in (RunState.PARKED, RunState.QUEUED):
        moved = update(runs).values(state=state.value)
        await house.store.write(partial(_execute, statement=moved))
        assert await house.store.write(lambda tx: shorten(tx, lease_s=30)) == 0
    house.clock.pass_s(-1)
    assert await house.store.write(lambda tx: shorten(tx, lease_s=30)) == 1
