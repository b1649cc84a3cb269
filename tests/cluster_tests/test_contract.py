"""The conformance suite of every backend, against the real API server and kubelet.

The same tests as for the local backend: only the fixture `backend` differs (this folder's conftest).
"""

from __future__ import annotations

import os

import pytest

from ringfence_sandbox.contract import Backend, Bundle, Limits, SandboxId, SandboxSpec
from tests.contracts.sandbox.conftest import Box, bundle
from tests.contracts.sandbox.test_contract import *  # noqa: F403 - every test of the suite, also those to come

pytestmark = pytest.mark.cluster
__all__ = ["bundle"]


@pytest.fixture
async def box(backend: Backend, bundle: Bundle) -> Box:
    """As locally, but nobody waits for its end: the fixture `backend` has every namespace deleted."""
    spec = SandboxSpec(
        SandboxId(f"box-{os.urandom(4).hex()}"),
        limits=Limits(processes=128, memory_bytes=512 << 20, disk_bytes=256 << 20),
    )
    sandbox = await backend.create(spec)
    await sandbox.load(bundle)
    return Box(backend, spec, sandbox)
