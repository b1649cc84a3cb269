"""The one place where any error becomes a line for a person and an exit code for a script.

Tracebacks never reach the screen: one that nobody foresaw is written to a file, whose path the line names.
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import typer

from ringfence.escaping import visible
from ringfence.exits import Exit

_MESSAGE_LIMIT = 2000
_USAGE_ERROR = typer.BadParameter.__mro__[1]
"""typer has no name of its own for the error that it raises for an unknown command, option or argument."""
_FULL = ("disk is full", os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
"""How SQLite and the rooms that wrap an OSError say it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the person reads, and what the script gets."""

    message: str
    exit: Exit


def run_at_boundary(work: Callable[[], object], *, argv: Sequence[str] | None = None) -> NoReturn:
    """Run `work`; exit with its own code, or with the one its error stands for."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        work()
    except BrokenPipeError:
        # The reader of a pipe went away (`| head`): nothing failed. Keep the interpreter from flushing into it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.FINISHED)
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("\nringfence: interrupted\n")
        sys.exit(Exit.CANCELLED)
    except Exception as error:  # noqa: BLE001 the outermost boundary: recorded in a file, shown in one line
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stderr.write(_told(error) + "\n")
            sys.exit(Exit.USAGE)
        verdict = judge(error)
        _report(verdict, is_json="--json" in arguments)
        sys.exit(verdict.exit)
    sys.exit(Exit.FINISHED)


def judge(error: BaseException) -> Verdict:
    """What an error of any room means to the person at the terminal."""
    single = _only_error(error)
    if isinstance(single, _USAGE_ERROR):
        return _judge_usage(single)
    if any(words in str(single) for words in _FULL):
        return Verdict("the disk is full: nothing was done. Free some space and try again", Exit.UNAVAILABLE)
    known = _judge_known(single)
    if known is not None:
        return known
    if isinstance(single, OSError):
        return _judge_os(single)
    return Verdict(
        f"unexpected {type(single).__name__}. Nothing more ran; details are in {_keep(error)}: please report them",
        Exit.FAILED,
    )


def _judge_usage(error: BaseException) -> Verdict:
    """A command line that typer cannot read: one line, like every other mistake."""
    command = getattr(getattr(error, "ctx", None), "command_path", "ringfence")
    return Verdict(f"{_told(error).rstrip('.')}. See `{command} --help`", Exit.USAGE)


def _told(error: BaseException) -> str:
    tell = getattr(error, "format_message", None)
    return str(tell()) if callable(tell) else str(error)


def _only_error(error: BaseException) -> BaseException:
    """The one error inside (nested) groups that hold just one, as task groups wrap it."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _judge_known(error: BaseException) -> Verdict | None:
    # Imported here: the happy path of --help must not pay for the rooms' packages.
    from ringfence.errors import RingfenceError
    from ringfence_sandbox.errors import IsolationUnavailable, SandboxBusy, SandboxError, WorkspaceRefused

    if isinstance(error, RingfenceError):
        return Verdict(str(error), error.exit)
    if isinstance(error, IsolationUnavailable):
        return Verdict(str(error), Exit.ISOLATION)
    from ringfence_agents.errors import (
        AgentsError,
        ModelRefused,
        ModelUnavailable,
        RunEnded,
        RunHeld,
        RunNotFound,
        StepNotKept,
    )
    from ringfence_audit.errors import AuditError, EntryNotFound, InvalidExport, LogUnavailable
    from ringfence_tools.errors import (
        EscalationClosed,
        LeaseLost,
        NotAllowedToVote,
        NotFound,
        PolicyError,
        ProfileInvalid,
        ToolsError,
    )

    exits: tuple[tuple[type[Exception], Exit], ...] = (
        (RunNotFound, Exit.USAGE),
        (RunEnded, Exit.REFUSED),
        (RunHeld, Exit.UNAVAILABLE),
        (ModelUnavailable, Exit.UNAVAILABLE),
        (ModelRefused, Exit.USAGE),
        (StepNotKept, Exit.USAGE),
        (AgentsError, Exit.FAILED),
        (SandboxBusy, Exit.UNAVAILABLE),
        (WorkspaceRefused, Exit.USAGE),
        (SandboxError, Exit.FAILED),
        (LogUnavailable, Exit.UNAVAILABLE),
        (InvalidExport, Exit.EVIDENCE),
        (EntryNotFound, Exit.USAGE),
        (AuditError, Exit.FAILED),
        (ProfileInvalid, Exit.USAGE),
        (PolicyError, Exit.USAGE),
        (NotFound, Exit.USAGE),
        (EscalationClosed, Exit.REFUSED),
        (NotAllowedToVote, Exit.REFUSED),
        (LeaseLost, Exit.UNAVAILABLE),
        (ToolsError, Exit.FAILED),
    )
    for kind, code in exits:
        if isinstance(error, kind):
            return Verdict(str(error), code)
    return None


def _judge_os(error: OSError) -> Verdict:
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Verdict(f"the disk is full{where}. Free some space and try again", Exit.UNAVAILABLE)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return Verdict(
            f"no permission{where}. Give this user access, or point RINGFENCE_HOME at a folder it may write",
            Exit.USAGE,
        )
    reason = error.strerror or type(error).__name__
    is_path = isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError)
    return Verdict(f"{reason}{where}. Check the path and try again", Exit.USAGE if is_path else Exit.FAILED)


def _keep(error: BaseException) -> str:
    text = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile("w", prefix="ringfence-error-", suffix=".txt", delete=False) as file:
            file.write(text)
    except OSError as unwritable:
        return f"no file, since none could be written ({unwritable.strerror})"
    return str(Path(file.name))


def _report(verdict: Verdict, *, is_json: bool) -> None:
    message = visible(" ".join(verdict.message.split()))[:_MESSAGE_LIMIT]
    if is_json:
        import json

        sys.stdout.write(json.dumps({"type": "error", "message": message, "exit": int(verdict.exit)}) + "\n")
    sys.stderr.write(f"ringfence: {message}\n")
