"""What can go wrong on the way out, as the sandbox is told it.

SandboxError
├── EgressRefusal        this request does not leave: answered to the sandbox as JSON, told to the observer
├── SandboxHungUp        the sandbox's end of a connection is gone or silent: nobody is left to answer
├── EgressMisconfigured  a CA file or the upstream proxy in the settings is unusable: tell the operator
└── ListenerRefused      the socket handed over is not a loopback TCP listener: do not start the sandbox
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ringfence_sandbox.contract import EgressRequest, SandboxId
from ringfence_sandbox.errors import SandboxError


class Code(StrEnum):
    """Why a request did not leave. Stable: agents and scripts branch on it."""

    HOST_REFUSED = "host-refused"
    """The policy does not open this host, port, method or path. Asking a person can."""
    ADDRESS_REFUSED = "address-refused"
    """The name leads to a private, local, metadata or multicast address."""
    CONTENT_REFUSED = "content-refused"
    """The bytes inside CONNECT are not what was admitted: another server name, ECH, not TLS."""
    NOT_ADMITTED = "not-admitted"
    """No answer from the policy, or its entry could not be written: nothing leaves."""
    NOT_IDENTIFIED = "not-identified"
    MALFORMED = "malformed"
    TOO_LARGE = "too-large"
    BUSY = "busy"
    NAME_UNKNOWN = "name-unknown"
    CONNECT_FAILED = "connect-failed"
    TLS_UNVERIFIED = "tls-unverified"
    UPSTREAM_BROKEN = "upstream-broken"
    TIMEOUT = "timeout"


_STATUS = {
    Code.HOST_REFUSED: 403,
    Code.ADDRESS_REFUSED: 403,
    Code.CONTENT_REFUSED: 403,
    Code.NOT_ADMITTED: 403,
    Code.NOT_IDENTIFIED: 407,
    Code.MALFORMED: 400,
    Code.TOO_LARGE: 413,
    Code.BUSY: 503,
    Code.NAME_UNKNOWN: 502,
    Code.CONNECT_FAILED: 502,
    Code.TLS_UNVERIFIED: 502,
    Code.UPSTREAM_BROKEN: 502,
    Code.TIMEOUT: 504,
}


class EgressRefusal(SandboxError):
    """A request that does not leave. `reason` is a sentence for the agent, free of secrets and of internal addresses.

    `rule` names what decided; `instead` what the agent may do; both may be empty.
    """

    def __init__(
        self, code: Code, reason: str, *, rule: str = "", instead: str = "", status: int | None = None
    ) -> None:
        super().__init__(reason)
        self._status = status
        self.code = code
        self.reason = reason
        self.rule = rule
        self.instead = instead

    @property
    def status(self) -> int:
        """The HTTP status that carries it."""
        return self._status or _STATUS[self.code]


class SandboxHungUp(SandboxError):
    """The client inside closed, broke or stalled its connection."""


class EgressMisconfigured(SandboxError):
    """What the operator set cannot be used; the message names it."""


class ListenerRefused(SandboxError):
    """The socket is not a TCP listener on a loopback address."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A refusal as the observer sees it. `request` is None where the bytes never became one."""

    sandbox: SandboxId
    code: Code
    reason: str
    rule: str = ""
    request: EgressRequest | None = None
