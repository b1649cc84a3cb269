"""What every sandbox promises, refusals first."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from ringfence_sandbox.contract import (
    Backend,
    Bundle,
    CallId,
    Ending,
    Exec,
    Move,
    Outcome,
    Recall,
    SandboxId,
    SandboxSpec,
    Write,
)
from ringfence_sandbox.errors import PathRefused, SandboxGone, StaleFence
from ringfence_sandbox.forking import fork
from tests.contracts.sandbox.conftest import Box
from tests.contracts.sandbox.repositories import apply, clone

APP = PurePosixPath("/workspace/app.py")


async def test_a_lower_fence_is_refused_and_runs_nothing(box: Box) -> None:
    box.fence = 5
    await box.sh("true")
    box.fence = 4
    with pytest.raises(StaleFence):
        await box.sh("touch /workspace/written")
    box.fence = 5
    assert "written" not in await box.says("ls /workspace")


async def test_a_changed_file_refuses_the_sealed_call(box: Box) -> None:
    sealed = {str(APP): hashlib.sha256(b"other").hexdigest()}
    action = Exec(box.call(), 1, ("bash", "-c", "touch /workspace/ran"), sealed=sealed)
    assert (await box.sandbox.perform(action)).ending is Ending.REFUSED
    assert "ran" not in await box.says("ls /workspace")


async def test_the_approved_bytes_run_sealed(box: Box) -> None:
    sealed = {str(APP): hashlib.sha256(b"x = 1\n").hexdigest()}
    outcome = await box.sandbox.perform(Exec(box.call(), 1, ("cat", "app.py"), sealed=sealed))
    assert (outcome.ending, outcome.head) == (Ending.DONE, b"x = 1\n")


async def test_a_write_over_other_content_is_refused(box: Box) -> None:
    refused = await box.sandbox.perform(Write(box.call(), 1, APP, b"y", expected_sha256="0" * 64))
    assert refused.ending is Ending.REFUSED
    assert (await box.sandbox.read(APP)).data == b"x = 1\n"


async def test_a_write_never_follows_a_symbolic_link(box: Box) -> None:
    await box.sh("ln -s /tmp/outside link && mkdir /tmp/d && ln -s /tmp/d dir")
    for path in ("/workspace/link", "/workspace/dir/file"):
        outcome = await box.sandbox.perform(Write(box.call(), 1, PurePosixPath(path), b"x"))
        assert outcome.ending is Ending.REFUSED
    assert await box.says("ls /tmp/outside /tmp/d/file 2>/dev/null") == ""


@pytest.mark.parametrize("path", ["/workspace/absent", "/workspace", "/dev/zero"])
async def test_what_is_no_regular_file_is_not_read(box: Box, path: str) -> None:
    with pytest.raises(PathRefused):
        await box.sandbox.read(PurePosixPath(path))


async def test_the_same_call_runs_once(box: Box) -> None:
    call = box.call()
    outcomes = [await box.sh("echo once >> /workspace/log; cat /workspace/log", call=call) for _ in range(3)]
    assert {outcome.head for outcome in outcomes} == {b"once\n"}
    await box.sandbox.acknowledge(call)
    assert (await box.sh("echo once >> /workspace/log", call=call)).head == b""
    assert await box.says("wc -l < /workspace/log") == "1"


async def test_recall_tells_what_never_started_from_what_ended(box: Box) -> None:
    assert await box.sandbox.recall(CallId("run/9/9/never")) is Recall.NEVER_STARTED
    call = box.call()
    await box.sh("exit 3", call=call)
    known = await box.sandbox.recall(call)
    assert isinstance(known, Outcome)
    assert known.exit_code == 3


async def test_a_timeout_ends_the_whole_tree(box: Box) -> None:
    command = "setsid sh -c 'sleep 300 & disown; sleep 301' & trap '' TERM; sleep 302"
    assert (await box.sh(command, timeout_s=0.5)).ending is Ending.TIMEOUT
    assert await box.says("grep -l sleep /proc/[0-9]*/comm 2>/dev/null | wc -l") == "0"


async def test_a_background_process_of_an_earlier_call_survives(box: Box) -> None:
    await box.sh("(sleep 50 >/dev/null 2>&1 &)")
    assert await box.says("grep -l sleep /proc/[0-9]*/comm 2>/dev/null | wc -l") == "1"


async def test_a_flood_of_output_keeps_head_and_tail(box: Box) -> None:
    outcome = await box.sh("echo first; yes | head -c 30000000; echo last")
    assert outcome.head.startswith(b"first")
    assert outcome.tail.endswith(b"last\n")
    assert outcome.omitted_bytes > 20_000_000
    assert len(outcome.head) + len(outcome.tail) <= 64 << 10


async def test_the_patch_applies_to_a_clean_checkout_binary_files_included(
    box: Box, bundle: Bundle, tmp_path: Path
) -> None:
    await box.sh(r"echo 'x = 2' > app.py; printf '\0\1' > data.bin; mkdir ignored; touch ignored/x; rm -rf .git/refs")
    patch = await box.sandbox.diff()
    target = clone(bundle, tmp_path / "clean")
    apply(patch.data, target)
    assert (target / "app.py").read_text() == "x = 2\n"
    assert (target / "data.bin").read_bytes() == b"\0\1"
    assert not (target / "ignored").exists()
    assert patch.base_commit == bundle.commit


async def test_a_catastrophic_pattern_ends_and_the_server_lives(box: Box) -> None:
    await box.sh("python3 -c \"open('evil.txt','w').write('a'*40+'!')\"")
    with pytest.raises(PathRefused):
        await box.sandbox.search("(a+)+$", PurePosixPath("/workspace"))
    assert await box.says("echo alive") == "alive"


async def test_suspended_files_and_outcomes_come_back(box: Box) -> None:
    call = box.call()
    await box.sh("echo kept > kept.txt", call=call)
    await box.sandbox.suspend()
    box.sandbox = await box.backend.attach(box.spec)
    assert await box.says("cat kept.txt") == "kept"
    assert isinstance(await box.sandbox.recall(call), Outcome)


async def test_destroy_leaves_nothing_and_may_be_repeated(backend: Backend) -> None:
    spec = SandboxSpec(SandboxId("gone-1"))
    await backend.create(spec)
    for _ in range(2):
        await backend.destroy(spec.id)
    with pytest.raises(SandboxGone):
        await backend.attach(spec)
    assert await backend.sweep(frozenset()) == []


async def test_every_probe_of_a_fresh_sandbox_holds(box: Box) -> None:
    proof = await box.sandbox.prove()
    assert proof.is_held, [probe for probe in proof.probes if not probe.is_held]


async def test_a_hook_or_a_setting_of_git_written_inside_is_marked_beside_the_patch(box: Box) -> None:
    assert (await box.sandbox.diff()).watched == ()
    await box.sh("echo 'evil' > .git/hooks/post-checkout; git config core.fsmonitor ./evil.sh; git commit -qam x")
    patch = await box.sandbox.diff()
    assert patch.watched == (".git/config", ".git/hooks/post-checkout")
    assert b"evil" not in patch.data


async def test_a_move_never_goes_over_what_stands_there_nor_through_a_link(box: Box) -> None:
    await box.sh("echo other > other; mkdir /tmp/d; ln -s /tmp/d door")
    for source, target in (("app.py", "other"), ("app.py", "door/app.py"), ("absent", "x"), ("../etc/passwd", "x")):
        move = Move(box.call(), 1, PurePosixPath("/workspace", source), PurePosixPath("/workspace", target))
        assert (await box.sandbox.perform(move)).ending is Ending.REFUSED, (source, target)
    assert await box.says("cat other; ls /tmp/d; cat app.py") == "other\nx = 1"


async def test_a_file_is_moved_once_into_folders_that_are_made(box: Box) -> None:
    move = Move(box.call(), 1, APP, PurePosixPath("/workspace/a/b/moved.py"))
    assert [(await box.sandbox.perform(move)).ending for _ in range(2)] == [Ending.DONE] * 2
    assert await box.says("cat a/b/moved.py; ls app.py 2>/dev/null") == "x = 1"


async def test_a_command_at_a_terminal_is_controlled_by_it_and_typed_at(box: Box) -> None:
    command = "tty; stty size; read line; echo got $line; cat; exit 3"
    action = Exec(box.call(), 1, ("bash", "-c", command), stdin=b"typed\nmore\n", has_terminal=True, timeout_s=20)
    outcome = await box.sandbox.perform(action)
    said = (outcome.head + outcome.tail).decode().replace("\r", "")
    assert (outcome.ending, outcome.exit_code) == (Ending.DONE, 3)
    for expected in ("/dev/pts/", "24 80", "got typed"):
        assert expected in said


async def test_without_a_terminal_there_is_none(box: Box) -> None:
    assert await box.says("tty; true") == "not a tty"


async def test_a_terminal_that_hangs_ends_at_its_time_with_its_tree(box: Box) -> None:
    action = Exec(box.call(), 1, ("bash", "-c", "sleep 311 & sleep 312"), has_terminal=True, timeout_s=0.5)
    assert (await box.sandbox.perform(action)).ending is Ending.TIMEOUT
    assert await box.says("grep -l sleep /proc/[0-9]*/comm 2>/dev/null | wc -l") == "0"


async def test_a_fork_has_the_files_and_goes_its_own_way(box: Box, bundle: Bundle, tmp_path: Path) -> None:
    await box.sh("echo 'x = 2' > app.py; ln -s app.py link; mkdir d; printf '\\1' > d/bin; echo kept > ~/note")
    spec = replace(box.spec, id=SandboxId("fork-1"))
    sandbox = await fork(box.sandbox, box.backend, spec, bundle, scratch=tmp_path)
    try:
        copy = Box(box.backend, spec, sandbox)
        assert await copy.says("cat link ~/note; readlink link; wc -c < d/bin") == "x = 2\nkept\napp.py\n1"
        await copy.sh("echo 'x = 3' > app.py")
        assert await box.says("cat app.py") == "x = 2"
        assert b"+x = 3" in (await sandbox.diff()).data
    finally:
        await box.backend.destroy(spec.id)
