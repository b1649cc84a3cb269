"""Fixtures that tests of several rooms share."""

from __future__ import annotations

from hypothesis import settings

pytest_plugins = ("tests.fixtures_postgres",)

# A loaded machine is no failure: no test judges by the clock.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
