"""Paths that a person is told beside a patch: bounded, and never fewer than there are without saying so."""

from __future__ import annotations

from ringfence_sandbox.inside.files import NAMES_LIMIT, told


def test_paths_that_are_not_named_are_counted() -> None:
    shown = told(f"d/{number:04d}" for number in range(250))
    assert len(shown) == NAMES_LIMIT
    assert shown[-2:] == ["d/0098", "and 151 more"]


def test_as_many_as_can_be_named_are_named_in_order() -> None:
    assert told(f"{number:03d}" for number in reversed(range(NAMES_LIMIT)))[-1] == f"{NAMES_LIMIT - 1:03d}"
    assert told([]) == []
