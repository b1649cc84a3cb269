"""A live local sandbox: the shared protocol, and how its processes are stopped, restarted and remounted."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ringfence_sandbox.contract import Bundle, EgressGatekeeper, Layer, Mount, Proof, SandboxSpec
from ringfence_sandbox.errors import SandboxGone
from ringfence_sandbox.local.diagnosis import PROBE, unavailable
from ringfence_sandbox.local.launch import Launched
from ringfence_sandbox.local.way_out import WayOut
from ringfence_sandbox.served import ServedSandbox

if TYPE_CHECKING:
    from ringfence_sandbox.local.backend import LocalBackend

END_WITHIN_S = 10.0


class LocalSandbox(ServedSandbox):
    """Made by LocalBackend only. `end` closes the server's standard input: the kernel then ends all that is inside."""

    def __init__(
        self, backend: LocalBackend, spec: SandboxSpec, launched: Launched, egress: EgressGatekeeper | None
    ) -> None:
        super().__init__(spec.id, launched.connection, launched.greeting.layers)
        self._backend = backend
        self._spec = spec
        self._process = launched.process
        self._egress = egress
        self._way_out: WayOut | None = None

    def require(self, layers: Sequence[Layer]) -> None:
        """Raise `IsolationUnavailable` for a layer that is missing, unless the profile names the reduced level."""
        missing = [layer for layer in layers if not layer.is_held]
        if missing and not self._spec.is_reduced_allowed:
            raise unavailable(missing)

    def told(self, proof: Proof, *, of: str) -> None:
        """Add what probes found to the layers. Raises as `require`."""
        broken = [Layer(PROBE + probe.name, False, probe.detail) for probe in proof.probes if not probe.is_held]
        said = f"{len(proof.probes) - len(broken)} of {len(proof.probes)} probes held"
        found = [Layer(f"proof of {of}", not broken and bool(proof.probes), said), *broken]
        self._layers = (*self._layers, *found)
        self.require(broken or found)

    async def load(self, bundle: Bundle) -> None:
        # The short set runs while the workspace is made, and is judged before anything can act in it.
        proving = asyncio.create_task(self.probed(is_short=True))
        try:
            await super().load(bundle)
        finally:
            proof = await proving
        self.told(proof, of="this run")

    async def open_way_out(self, launched: Launched) -> None:
        """Serve what leaves this sandbox, where its spec has egress. Before the first command."""
        if self._egress is not None and launched.egress is not None:
            self._way_out = await WayOut.open(launched, self._egress, self.id)

    @property
    def is_running(self) -> bool:
        return self.connection.is_open

    async def remount(self, mounts: tuple[Mount, ...]) -> None:
        self._backend.refuse_own(mounts)
        if self.is_running:
            await self.suspend()
        # The spec keeps the toolchains; what is granted comes and goes beside them. A granted path that this machine
        # does not have shows nothing: the agent then learns that there is no such file.
        shown = tuple(mount for mount in mounts if mount.source.exists())
        granted = dataclasses.replace(self._spec, mounts=(*self._spec.mounts, *shown))
        launched = await self._backend.restart(granted, self._egress)
        self._process = launched.process
        self.reconnect(launched.connection)
        await self.open_way_out(launched)

    async def suspend(self) -> None:
        try:
            await self.connection.request({"op": "suspend"})
        except SandboxGone:
            # Ending is what was asked for; the answer may lose the race against it.
            await self.end()
            return
        await self.end()

    async def end(self) -> None:
        """End every process of the sandbox and wait until none is left."""
        if self._way_out is not None:
            way_out, self._way_out = self._way_out, None
            await way_out.close()
        await self.let_go()
        try:
            await asyncio.wait_for(asyncio.to_thread(self._process.wait), END_WITHIN_S)
        except TimeoutError:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
