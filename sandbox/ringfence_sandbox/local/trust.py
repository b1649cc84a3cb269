"""The files by which tools inside find the proxy and trust what it shows them: one folder, bound in read-only.

Without a run's own authority the folder is the same for every sandbox of this machine and made once. With one it lies
beside the sandbox's files and is made anew at every start, since the authority's key lives no longer than that.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ringfence_sandbox.egress.environment import files, system_roots

TRUST = PurePosixPath("/run/ringfence/trust")
CA = TRUST / "ca.pem"
PROXY = "http://127.0.0.1:3128"


def shared_trust(root: Path, company: Sequence[bytes]) -> Path:
    """The machine's and the company's roots: `root/trust-DIGEST`, never changed once made."""
    certificates = (system_roots(), *company)
    digest = hashlib.sha256(b"\0".join((PROXY.encode(), *certificates))).hexdigest()[:16]
    folder = root / f"trust-{digest}"
    if not folder.is_dir():
        fresh = root / f".trust-{os.getpid()}-{os.urandom(4).hex()}"
        _fill(fresh, certificates)
        try:
            fresh.rename(folder)
        except OSError:
            shutil.rmtree(fresh, ignore_errors=True)
            if not folder.is_dir():
                raise
    return folder


def own_trust(folder: Path, company: Sequence[bytes], authority: bytes) -> Path:
    """The same with the run's own authority, below one sandbox's `folder`. Replaces what an earlier start left."""
    place = folder / "trust"
    if place.is_dir():
        shutil.rmtree(place)
    _fill(place, (system_roots(), *company, authority))
    return place


def _fill(folder: Path, certificates: Sequence[bytes]) -> None:
    folder.mkdir(mode=0o755, parents=True)
    for path, data in files(PROXY, CA, [text for text in certificates if text]).items():
        target = folder / path.relative_to(TRUST)
        target.write_bytes(data)
        target.chmod(0o644)
    folder.chmod(0o755)
