"""Fixtures that tests of several rooms share."""

from __future__ import annotations

import pytest
from hypothesis import settings
from xdist.remote import Producer  # type: ignore[import-untyped]  # ships no types
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # ships no types

pytest_plugins = ("tests.fixtures_postgres",)

# A loaded machine is no failure: no test judges by the clock.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Browser tests last: their driver keeps an event loop of its own running in the main thread until the end."""
    items.sort(key=lambda item: item.get_closest_marker("browser") is not None)


class _ClusterApart(LoadScopeScheduling):  # type: ignore[misc]  # its base has no types
    """What needs the one cluster runs one after another in one process, all else so in another."""

    def _split_scope(self, nodeid: str) -> str:
        return "cluster" if nodeid.startswith("tests/cluster_tests/") else "machine"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _ClusterApart | None:
    return _ClusterApart(config, log) if config.getvalue("dist") == "loadscope" else None
