"""A copy of a sandbox: another sandbox with the same files, of any kind, made by the sandboxes themselves.

What an agent wrote never passes through the host as files: it leaves one server as an archive and is opened by the
other.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import IO

from ringfence_sandbox.contract import Backend, Bundle, EgressGatekeeper, Sandbox, SandboxSpec
from ringfence_sandbox.errors import ProtocolViolation


async def fork(
    source: Sandbox,
    backend: Backend,
    spec: SandboxSpec,
    bundle: Bundle,
    *,
    scratch: Path,
    egress: EgressGatekeeper | None = None,
) -> Sandbox:
    """A fresh sandbox with workspace and home as `source` has them now; `bundle` is what `source` was loaded from.

    `source` is frozen while it is read and goes on afterwards. Outcomes, processes and grants are not copied. `scratch`
    is a folder of the host for the archive meanwhile. Raises what `create`, `load` and `pack` raise, and
    `ProtocolViolation` for an archive larger than the copy may be; then nothing of the copy is left.
    """
    with tempfile.NamedTemporaryFile(dir=scratch) as file:
        await _pack(source, file, limit_bytes=2 * spec.limits.disk_bytes)
        file.flush()
        fresh = await backend.create(spec, egress=egress)
        try:
            await fresh.load(bundle)
            await fresh.unpack(Path(file.name))
        except BaseException:
            await backend.destroy(spec.id)
            raise
    return fresh


async def _pack(source: Sandbox, file: IO[bytes], *, limit_bytes: int) -> None:
    left = limit_bytes

    def keep(data: bytes) -> None:
        nonlocal left
        left -= len(data)
        if left >= 0:
            file.write(data)
        else:
            packing.cancel()

    packing = asyncio.ensure_future(source.pack(keep))
    try:
        await packing
    except asyncio.CancelledError:
        if left < 0:
            raise ProtocolViolation(f"the archive of sandbox {source.id} has no end") from None
        packing.cancel()
        raise
