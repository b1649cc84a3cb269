"""Attempts at what must not work, made by a worker under a command's rules: each is held when it fails as it should."""

from __future__ import annotations

import os

from . import files, kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .settings import Settings
    from .wire import Json
    from .worker import Emit

    Attempt = Callable[[Settings], str]
    """Returns "" when nothing got through, else what did."""


def prove(settings: Settings, emit: Emit) -> None:
    """Emit one probe result for each attempt. Puts this process under the commands' Landlock rules first."""
    if settings.command_ruleset >= 0:
        kernel.landlock_restrict(settings.command_ruleset)
    results: list[Json] = []
    for name, attempt in ATTEMPTS:
        try:
            breach = attempt(settings)
        except OSError as error:
            results.append({"name": name, "is_held": True, "detail": error.strerror or str(error)})
            continue
        results.append({"name": name, "is_held": not breach, "detail": breach})
    files.emit_items(results, emit, {"ok": True})


def _capabilities(_: Settings) -> str:
    with open("/proc/self/status") as file:
        lines = file.read().splitlines()
    held = [line for line in lines if line.startswith(("CapEff:", "CapPrm:", "CapBnd:")) and int(line.split()[1], 16)]
    return "; ".join(held)


def _write_system(_: Settings) -> str:
    for path in ("/usr/ringfence-probe", "/etc/ringfence-probe", "/ringfence-probe", "/dev/ringfence-probe"):
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        except OSError:
            continue
        os.unlink(path)
        return "wrote " + path
    return ""


def _server_memory(_: Settings) -> str:
    os.close(os.open("/proc/1/mem", os.O_RDONLY))
    return "opened the server's memory"


def _server_state(settings: Settings) -> str:
    os.close(os.open(settings.state + "/calls.journal", os.O_RDONLY))
    return "opened the server's journal"


ATTEMPTS: tuple[tuple[str, Attempt], ...] = (
    ("holds-no-capability", _capabilities),
    ("cannot-write-the-system", _write_system),
    ("cannot-open-the-server's-memory", _server_memory),
    ("cannot-open-the-server's-journal", _server_state),
)
