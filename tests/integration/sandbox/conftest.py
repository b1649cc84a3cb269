"""The same boxes as the contract suite."""

from __future__ import annotations

from tests.contracts.sandbox.conftest import backend, box, bundle

__all__ = ["backend", "box", "bundle"]
