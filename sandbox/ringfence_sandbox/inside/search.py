"""Search by regular expression, in a worker: a pattern that backtracks for ever ends at the worker's deadline."""

from __future__ import annotations

import os
import re
import stat

from . import files
from .worker import Answer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .wire import Json
    from .worker import Emit

FILE_CEILING = 8 << 20
LINE_CEILING = 4096
TEXT_CEILING = 500


def search(pattern: str, path: str, workspace: str, state: str, limit: int, emit: Emit) -> None:
    """Emit matches in path order: at most `limit`, lines cut at 500 characters."""
    try:
        expression = re.compile(pattern.encode())
    except (re.error, RecursionError, OverflowError) as error:
        raise Answer("path", f"not a regular expression: {error}") from error
    real = os.path.realpath(path)
    if files.is_below(real, state) or not os.path.exists(real):
        raise Answer("path", f"{path}: no such file or directory")
    found: list[Json] = []
    for candidate in _candidates(real):
        if files.is_below(candidate, state):
            continue
        _search_one(expression, candidate, files.printable(files.shown(candidate, workspace)), found, limit)
        if len(found) > limit:
            break
    files.emit_items(found[:limit], emit, {"ok": True, "is_truncated": len(found) > limit})


def _candidates(real: str) -> list[str]:
    if os.path.isfile(real):
        return [real]
    return [path for path, status in files.walk(real, 64) if stat.S_ISREG(status.st_mode)]


def _search_one(expression: re.Pattern[bytes], path: str, name: str, found: list[Json], limit: int) -> None:
    try:
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return
    with open(opened, "rb") as file:
        if os.fstat(opened).st_size > FILE_CEILING or b"\0" in file.read(4096):
            return
        file.seek(0)
        for number, line in enumerate(file, 1):
            if expression.search(line.rstrip(b"\r\n")[:LINE_CEILING]):
                text = line.rstrip(b"\r\n").decode("utf-8", "replace")[:TEXT_CEILING]
                found.append({"path": name, "line": number, "text": text})
                if len(found) > limit:
                    return
