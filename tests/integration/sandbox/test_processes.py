"""Trees of processes, however they hide, and the processes of the server itself."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from ringfence_sandbox.contract import Ending, Exec, Outcome
from tests.contracts.sandbox.conftest import Box

pytestmark = pytest.mark.sandbox

DAEMON = (
    "import os, time\n"
    "for _ in range(2):\n"
    "    if os.fork(): os._exit(0)\n"
    "    os.setsid()\n"
    "open('/workspace/daemon', 'w').write('x')\n"
    "time.sleep(61)"
)


async def running(box: Box, word: str) -> int:
    """How many processes have `word` in their command line, the one that counts left out."""
    told = "{ tr '\\0' ' ' < $p/cmdline; } 2>/dev/null | grep -v grep; echo"
    said = await box.says(f"for p in /proc/[0-9]*; do {told}; done | grep -c '{word}'")
    return int(said)


async def test_a_daemon_that_forked_twice_ends_with_its_call(box: Box) -> None:
    command = f'python3 -c "{DAEMON}"; while [ ! -e daemon ]; do sleep 0.01; done; sleep 302'
    assert (await box.sh(command, timeout_s=2)).ending is Ending.TIMEOUT
    assert await running(box, "sleep(61)") == 0


async def test_a_wide_tree_is_buried_at_its_time(box: Box) -> None:
    command = "for i in $(seq 30); do setsid sleep 303 & done; wait"
    outcomes = [await box.sh(command, timeout_s=0.5) for _ in range(5)]
    assert {outcome.ending for outcome in outcomes} == {Ending.TIMEOUT}
    # Not a measurement of speed but of "at once": a second would mean that the fallback told it.
    assert min(outcome.duration_ms for outcome in outcomes) < 1000
    assert await running(box, "sleep 303") == 0


async def test_killing_the_keeper_gives_a_command_no_second_life(box: Box) -> None:
    outcome = await box.sh("setsid sleep 304 & kill -9 $PPID; sleep 305", timeout_s=20)
    assert outcome.ending is Ending.SIGNALED
    assert await running(box, "sleep 30[45]") == 0


async def test_stopping_the_keeper_does_not_outlast_the_time(box: Box) -> None:
    outcome = await box.sh("kill -STOP $PPID; sleep 306", timeout_s=0.5)
    assert outcome.ending is Ending.TIMEOUT
    assert await running(box, "sleep 306") == 0


async def test_killing_every_process_leaves_the_server(box: Box) -> None:
    outcome = await box.sh("kill -9 -1; kill -9 1; kill -STOP 1", timeout_s=20)
    assert outcome.ending in (Ending.SIGNALED, Ending.DONE)
    assert await box.says("echo alive") == "alive"


async def test_what_runs_in_the_background_is_told_with_its_log(box: Box) -> None:
    outcome = await box.sh("(sleep 0.2; echo later; sleep 50) & echo now")
    assert (outcome.ending, outcome.head) == (Ending.DONE, b"now\n")
    assert "background" in outcome.detail
    assert await box.says(f"sleep 1; cat {outcome.output_path}") == "now\nlater"


async def test_a_server_in_the_background_answers_a_later_call(box: Box) -> None:
    await box.sh("python3 -m http.server 8123 --bind 127.0.0.1 & sleep 1")
    said = await box.says(
        "python3 -c \"import urllib.request as u; print(u.urlopen('http://127.0.0.1:8123/app.py').status)\""
    )
    assert said == "200"


async def test_cancelling_ends_the_tree(box: Box) -> None:
    call = box.call()
    task = asyncio.create_task(box.sh("echo begun > begun; setsid sleep 307 & sleep 308", call=call))
    while await box.says("cat begun 2>/dev/null") != "begun":
        continue
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    while not isinstance(known := await box.sandbox.recall(call), Outcome):
        continue
    assert known.ending is Ending.SIGNALED
    assert await running(box, "sleep 30[78]") == 0


async def test_calls_run_at_once_and_the_same_id_waits_for_the_first(box: Box) -> None:
    call = box.call()
    twice = [asyncio.create_task(box.sh("echo x >> log; sleep 0.3; cat log", call=call)) for _ in range(2)]
    others = [asyncio.create_task(box.sh(f"sleep 0.3; echo {n}")) for n in range(10)]
    assert {(await task).head for task in twice} == {b"x\n"}
    assert [int((await task).head) for task in others] == list(range(10))


async def test_output_comes_in_order_as_it_is_written(box: Box) -> None:
    pieces: list[bytes] = []
    action = Exec(box.call(), 1, ("bash", "-c", "for i in $(seq 200); do echo $i; done; head -c 3000000 /dev/zero"))
    outcome = await box.sandbox.perform(action, on_output=pieces.append)
    whole = b"".join(pieces)
    assert whole.startswith(b"".join(b"%d\n" % number for number in range(1, 201)))
    assert len(whole) == len(outcome.head) + len(outcome.tail) + outcome.omitted_bytes


async def test_standard_input_arrives_whole(box: Box) -> None:
    data = bytes(range(256)) * 8000
    action = Exec(box.call(), 1, ("sha256sum",), stdin=data)
    assert (await box.sandbox.perform(action)).head.split()[0].decode() == hashlib.sha256(data).hexdigest()


async def test_a_program_that_is_not_there_is_refused_by_name(box: Box) -> None:
    outcome = await box.sandbox.perform(Exec(box.call(), 1, ("no-such-program",)))
    assert outcome.ending is Ending.REFUSED
    assert "no-such-program" in outcome.detail


async def test_an_argument_list_of_a_megabyte_is_passed_on(box: Box) -> None:
    words = ("bash", "-c", 'echo "$# $(echo "$@" | wc -c)"', "x", *("y" * 1000 for _ in range(200)))
    outcome = await box.sandbox.perform(Exec(box.call(), 1, words))
    assert outcome.head == b"200 200200\n"
