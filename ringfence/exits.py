"""The exit codes that scripts may rely on. A new code is a new promise: it goes into the README too."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """How a command ended. A run's own state decides the code of `run` and `runs resume`."""

    FINISHED = 0
    FAILED = 1
    """The run failed, or Ringfence itself did."""
    USAGE = 2
    """What was typed cannot be carried out as it is: nothing was started."""
    WAITING = 3
    """The run is parked: people have to decide, or someone paused it. `ringfence runs resume` goes on."""
    BLOCKED = 4
    """The run was ended because it kept asking for what had been refused."""
    BUDGET = 5
    CANCELLED = 6
    ISOLATION = 7
    """This machine cannot build the fence. Nothing ran."""
    EVIDENCE = 8
    """The log, or a copy of it, does not verify."""
    REFUSED = 9
    """A rule or a person's role says no: a patch that may not be applied, a vote that is not yours."""
    UNAVAILABLE = 10
    """Something that should answer does not: model, disk, database. Trying again later can help."""
