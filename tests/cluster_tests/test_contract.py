"""The conformance suite of every backend, against the real API server and kubelet.

The same tests as for the local backend: only the fixture `backend` differs (this folder's conftest).
"""

from __future__ import annotations

import pytest

from tests.contracts.sandbox.conftest import box, bundle
from tests.contracts.sandbox.test_contract import *  # noqa: F403 - every test of the suite, also those to come

pytestmark = pytest.mark.cluster
__all__ = ["box", "bundle"]
