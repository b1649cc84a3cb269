"""What the API server can answer, split by what the caller can do. All are sandbox errors, so nothing leaks upward.

SandboxError
├── SandboxBusy
│   ├── ClusterUnavailable  the API server is away or overloaded, and patience ran out: retry later
│   ├── Conflict            somebody else changed the object first: read again
│   └── QuotaFull           the namespace or the cluster has no room: wait or ask for more
├── SandboxGone
│   └── ObjectNotFound      no such object
└── RequestRefused          RBAC, admission or validation said no (`is_admission` tells which): stop, show a person
"""

from __future__ import annotations

from ringfence_sandbox.errors import SandboxBusy, SandboxError, SandboxGone


class ClusterUnavailable(SandboxBusy):
    """The API server did not answer within the patience that the settings give it."""


class Conflict(SandboxBusy):
    """The object was changed or made by somebody else meanwhile."""


class QuotaFull(SandboxBusy):
    """A ResourceQuota or the node has no room."""


class ObjectNotFound(SandboxGone):
    """No such object."""


class RequestRefused(SandboxError):
    """The API server will not do this, today or tomorrow. `status` is its HTTP code."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status
