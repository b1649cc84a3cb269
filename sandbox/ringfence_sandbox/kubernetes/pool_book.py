"""Who has which prepared namespace: the port through which a pool keeps its members.

Durability: every method returns once its change is durable. Concurrency: each is one conditional update, so that of
any number of processes exactly one gets a member, and no more are made than are wanted. Nobody retries for the caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ringfence_sandbox.contract import SandboxId


@dataclass(frozen=True, slots=True)
class Member:
    """A prepared namespace with its warm pod. `version` is the namespace's resourceVersion, `seen` what was shown of
    its network before anything could run in it."""

    namespace: str
    shape: str
    version: str
    pod_uid: str
    address: str
    seen: str


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many members a shape has: what the last `window_s` asked for, between `least` and `most`."""

    least: int = 1
    most: int = 8
    window_s: float = 60.0
    max_age_s: float = 24 * 3600.0


class PoolBook(Protocol):
    async def claim(self, shape: str, sandbox: SandboxId, *, run: str) -> Member | None:
        """Give the oldest ready member to a sandbox, with the entry that says so; None where there is none."""

    async def reserve(self, namespace: str, shape: str, bounds: Bounds) -> bool:
        """Note that a member is being made, where fewer than wanted are there or coming; False where not."""

    async def enter(self, member: Member) -> None:
        """A reserved member is ready to be claimed."""

    async def retire(self, shape: str, bounds: Bounds) -> str | None:
        """Take out one ready member of this shape that is too many; its namespace is the caller's to remove."""

    async def expire(self, bounds: Bounds) -> str | None:
        """Take out one ready member that is too old, whatever its shape: an upgrade leaves shapes nobody asks for."""

    async def cut_off(self, *, older_than_s: float) -> frozenset[str]:
        """Namespaces whose making began that long ago and never ended."""

    async def forget(self, namespace: str) -> None:
        """The namespace is gone."""

    async def known(self) -> frozenset[str]:
        """Namespaces that are ready, being made, or claimed within the last minute."""
