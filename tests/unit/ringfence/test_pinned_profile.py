from __future__ import annotations

import pytest

from ringfence_tools.profile import BUILT_IN, load_profile, parse_profile, pin_profile


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_pinned_profile_reads_back_as_itself(name: str) -> None:
    assert parse_profile(pin_profile(name).encode(), name) == load_profile(name)
