"""Who is who at the egress proxy of a cluster: a credential that opens something only from the sandbox's own pod.

The control plane hands each command a credential that is bound to the address its pod has now. The proxy computes it
anew from the address that a connection comes from, so one that was carried elsewhere, into another run's pod or into
one that the agent applied, is simply wrong. Addresses are given out again, so the proxy also asks which address the
sandbox has now: one that was suspended has none. The proxy needs this key and no right in the cluster; the key opens no
sandbox. Code: HMAC-SHA256 over `SANDBOX|ADDRESS`, 64 hex digits.

What a sandbox of no run may reach is in no table. It travels in the credential, as `CODE.PASS` with the code over
`SANDBOX|ADDRESS|PASS`, where PASS is the text in base64url: the sandbox can read it and change nothing.

From the same key follows each sandbox's certificate authority, for hosts whose TLS the proxy ends: the control plane
puts the certificate into the pod, any replica of the proxy signs with the key, and nothing is stored or sent. Key:
HKDF-SHA256, reduced to a P-256 scalar with 64 bits to spare (FIPS 186-5, A.2.1).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ringfence_sandbox.contract import EgressGatekeeper, SandboxId
from ringfence_sandbox.errors import IsolationUnavailable

if TYPE_CHECKING:  # every command imports this module, and the proxy is heavy
    from ringfence_sandbox.egress.authority import RunAuthority
    from ringfence_sandbox.egress.hosts import IpAddress

KEY_BYTES = 32
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_SPARE_BYTES = 8


@dataclass(frozen=True, slots=True)
class EgressKey:
    """Shared by the control plane and the egress proxy, by nobody else. Satisfies `egress.service.Identities`."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise IsolationUnavailable(
                f"the egress key has {len(self.secret)} bytes instead of {KEY_BYTES}",
                fix="make one from 32 random bytes, the same for the control plane and the egress proxy",
            )

    @classmethod
    def read(cls, path: Path) -> EgressKey:
        """The key in a file. Raises `IsolationUnavailable`."""
        try:
            return cls(path.read_bytes())
        except OSError as error:
            raise IsolationUnavailable(
                f"the egress key {path} cannot be read: {error.strerror}", fix="mount it, or name another file"
            ) from error

    def token(self, sandbox: SandboxId, address: str, *, carried: str = "") -> str:
        """The sandbox's credential while its pod has this address, with what it carries."""
        passed = base64.urlsafe_b64encode(carried.encode()).decode().rstrip("=")
        return f"{self._code(sandbox, address, passed)}.{passed}" if passed else self._code(sandbox, address, "")

    def _code(self, sandbox: SandboxId, address: str, passed: str) -> str:
        said = "|".join((sandbox, written(address), *([passed] if passed else [])))
        return hmac.new(self.secret, said.encode(), hashlib.sha256).hexdigest()

    def authority(self, sandbox: SandboxId, *, now: datetime | None = None) -> RunAuthority:
        """The sandbox's own authority, valid for 30 days from now: the same key and name wherever it is made."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        from ringfence_sandbox.egress.authority import RunAuthority

        info = f"ringfence run authority|{sandbox}".encode()
        derived = HKDF(hashes.SHA256(), length=KEY_BYTES + _SPARE_BYTES, salt=None, info=info).derive(self.secret)
        scalar = int.from_bytes(derived, "big") % (P256_ORDER - 1) + 1
        return RunAuthority.create(sandbox, key=ec.derive_private_key(scalar, ec.SECP256R1()), now=now)

    async def is_theirs(self, sandbox: SandboxId, token: str, address: IpAddress) -> bool:
        code, dot, passed = token.partition(".")
        is_whole = bool(passed) == bool(dot)
        return hmac.compare_digest(self._code(sandbox, str(address), passed).encode(), code.encode()) and is_whole


def carried_by(token: str) -> str:
    """What a credential carries, "" for nothing. Only of one that `is_theirs`: what it says is then our own word."""
    passed = token.partition(".")[2]
    return base64.urlsafe_b64decode(passed + "=" * (-len(passed) % 4)).decode()


@runtime_checkable
class Carried(EgressGatekeeper, Protocol):
    """A gatekeeper that fits into a credential, for a sandbox that is in no run's row."""

    def carried(self) -> str:
        """What it opens, as the proxy reads it. A few hundred characters at most."""


class Addresses(Protocol):
    """Which address each sandbox has now. Durable on return; any number of processes may tell. Nobody retries."""

    async def stands(self, sandbox: SandboxId, address: str) -> None:
        """It has this address from now on and no other; nobody else has it any more."""

    async def left(self, sandbox: SandboxId) -> None:
        """It has none."""


@dataclass(frozen=True, slots=True)
class WayOut:
    """What hands sandboxes their credentials: the key, and where it is noted from which address each is good."""

    key: EgressKey
    addresses: Addresses


def written(address: str) -> str:
    """An IP address in the one form in which addresses are compared."""
    return str(ipaddress.ip_address(address))
