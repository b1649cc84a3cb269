from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from ringfence.boundary import judge, run_at_boundary
from ringfence.errors import Mistake, Refused
from ringfence.exits import Exit
from ringfence_audit.errors import LogUnavailable
from ringfence_sandbox.errors import IsolationUnavailable


def _raising(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def _exit_of(error: BaseException, capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        run_at_boundary(_raising(error), argv=argv)
    shown = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, shown.out, shown.err


def test_a_mistake_is_one_line_that_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _exit_of(Mistake("no such profile: x", fix="See `ringfence profile list`"), capsys)
    assert (code, out) == (Exit.USAGE, "")
    assert err == "ringfence: no such profile: x. See `ringfence profile list`\n"


def test_an_error_with_hostile_text_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, err = _exit_of(Refused("bad \x1b[2J\nname"), capsys)
    assert err == "ringfence: bad [U+001B][2J name\n"


def test_with_json_the_error_is_an_object_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _exit_of(Mistake("no"), capsys, "run", "--json")
    assert code == Exit.USAGE
    assert out == '{"type": "error", "message": "no", "exit": 2}\n'


def test_an_unforeseen_error_shows_no_traceback_but_keeps_one_in_a_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, _, err = _exit_of(ZeroDivisionError("x"), capsys)
    assert code == Exit.FAILED
    assert "Traceback" not in err
    (kept,) = tmp_path.iterdir()
    assert str(kept) in err
    assert "ZeroDivisionError" in kept.read_text()


def test_errors_of_the_rooms_have_their_own_exit_codes() -> None:
    assert judge(IsolationUnavailable("no user namespaces", fix="sysctl")).exit == Exit.ISOLATION
    assert judge(LogUnavailable("the disk is full")).exit == Exit.UNAVAILABLE


def test_a_full_disk_and_missing_permission_say_so() -> None:
    assert "disk is full" in judge(OSError(errno.ENOSPC, "x")).message
    assert "no permission (/x)" in judge(PermissionError(errno.EACCES, "x", "/x")).message


def test_a_full_disk_is_told_alike_whichever_room_met_it() -> None:
    for error in (LogUnavailable("(sqlite3.OperationalError) database or disk is full"), OSError(errno.ENOSPC, "x")):
        assert judge(error).exit == Exit.UNAVAILABLE
        assert "Free some space" in judge(error).message


def test_an_error_wrapped_by_a_task_group_is_judged_as_itself() -> None:
    group = ExceptionGroup("g", [ExceptionGroup("h", [Mistake("no")])])
    assert judge(group).exit == Exit.USAGE


def test_ctrl_c_is_not_an_error_report(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _exit_of(KeyboardInterrupt(), capsys)
    assert (code, out, err) == (Exit.CANCELLED, "", "\nringfence: interrupted\n")


def test_work_that_ends_well_exits_with_zero() -> None:
    with pytest.raises(SystemExit) as caught:
        run_at_boundary(lambda: None, argv=())
    assert caught.value.code == 0
