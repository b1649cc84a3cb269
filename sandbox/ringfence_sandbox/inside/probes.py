"""Attempts at what must not work, made under a command's rules: each is held when it fails as it should.

Each probe names the layer that it tries. `short` ones run for every run, all of them once for each kind of fence and on
demand. A probe that could change its own process runs in a child of its own.
"""

from __future__ import annotations

import os

from . import files, keeper, probes_files, probes_kernel, probes_world
from .probing import Probe, in_child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .settings import Settings
    from .wire import Json
    from .worker import Emit

PROBES: tuple[Probe, ...] = (*probes_files.PROBES, *probes_world.PROBES, *probes_kernel.PROBES)


def prove(settings: Settings, emit: Emit, *, is_short: bool = False) -> None:
    """Emit one result for each probe that fits this kind of fence."""
    keeper.wear(settings)
    if not is_short:
        import ctypes  # noqa: F401 - once here rather than in every child
    results: list[Json] = []
    for probe in PROBES:
        if settings.fence in probe.fences and (probe.is_short or not is_short):
            name, (is_held, detail) = probe.name, attempted(probe, settings)
            results.append({"name": name, "is_held": is_held, "detail": detail})
    files.emit_items(results, emit, {"ok": True})


def attempted(probe: Probe, settings: Settings) -> tuple[bool, str]:
    """Whether it was held, and what got through or what stopped it."""
    try:
        breach = in_child(probe.attempt, settings) if probe.needs_child else probe.attempt(settings)
    except OSError as error:
        return True, error.strerror or os.strerror(error.errno or 0)
    return not breach, breach
