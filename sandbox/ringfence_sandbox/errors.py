"""What can go wrong in the sandbox room, split by what the caller can do.

SandboxError
├── IsolationUnavailable  this machine or cluster cannot build the fence: stop, show `missing` and `fix` to a person
├── SandboxGone           the sandbox no longer exists or its server ended: rebuild it from its files, or report unknown
│   └── SandboxRemoved    an operator took it away on purpose: end the run
├── SandboxBusy           a temporary refusal (quota full, no capacity, API server away): retry later
├── StaleFence            a lower fencing token than the sandbox has seen: this worker lost its lease, stop
├── ProtocolViolation     the in-sandbox server answered nonsense: treat the sandbox as hostile and destroy it
├── PathRefused           no such file, not a regular file, or too large: tell the agent
└── WorkspaceRefused      the repository could not be brought in: tell the person who assigned the task
"""

from __future__ import annotations


class SandboxError(Exception):
    """Base of every error that this room raises."""


class IsolationUnavailable(SandboxError):
    """The fence cannot be built here. `missing` says what lacks, `fix` the one command or step that mends it."""

    def __init__(self, missing: str, *, fix: str) -> None:
        super().__init__(f"{missing}. To fix it: {fix}")
        self.missing = missing
        self.fix = fix


class SandboxGone(SandboxError):
    """The sandbox does not exist any more, or its server ended."""


class SandboxRemoved(SandboxGone):
    """An operator removed the sandbox by hand. That is a decision: nothing is rebuilt."""


class SandboxBusy(SandboxError):
    """A temporary refusal; trying again later can help."""


class StaleFence(SandboxError):
    """The sandbox has seen a higher fencing token."""


class ProtocolViolation(SandboxError):
    """The in-sandbox server sent what the protocol does not allow."""


class PathRefused(SandboxError):
    """A path inside the sandbox cannot be served as asked."""


class WorkspaceRefused(SandboxError):
    """A repository could not become a workspace."""
