"""Fixtures that tests of several rooms share."""

from __future__ import annotations

import pytest
from hypothesis import settings

pytest_plugins = ("tests.fixtures_postgres",)

# A loaded machine is no failure: no test judges by the clock.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Browser tests last: their driver keeps an event loop of its own running in the main thread until the end."""
    items.sort(key=lambda item: item.get_closest_marker("browser") is not None)
