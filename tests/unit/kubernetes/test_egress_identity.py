"""A credential at the egress proxy is good for one sandbox, from one address."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from ringfence_sandbox.contract import SandboxId
from ringfence_sandbox.errors import IsolationUnavailable
from ringfence_sandbox.kubernetes.egress_identity import EgressKey

KEY = EgressKey(b"k" * 32)
MINE, OTHER = SandboxId("r1-1"), SandboxId("r2-1")


def test_a_short_key_is_refused() -> None:
    with pytest.raises(IsolationUnavailable, match="31 bytes"):
        EgressKey(b"k" * 31)


@pytest.mark.parametrize(
    ("sandbox", "token", "source"),
    [
        (MINE, KEY.token(MINE, "10.0.0.7"), "10.0.0.8"),
        (OTHER, KEY.token(MINE, "10.0.0.7"), "10.0.0.7"),
        (MINE, EgressKey(b"x" * 32).token(MINE, "10.0.0.7"), "10.0.0.7"),
        (MINE, KEY.token(MINE, "10.0.0.7").upper(), "10.0.0.7"),
        (MINE, "", "10.0.0.7"),
    ],
)
async def test_another_address_sandbox_or_key_is_not_theirs(sandbox: SandboxId, token: str, source: str) -> None:
    assert not await KEY.is_theirs(sandbox, token, ip_address(source))


async def test_the_sandbox_is_known_from_its_own_address_however_that_is_written() -> None:
    assert await KEY.is_theirs(MINE, KEY.token(MINE, "10.0.0.7"), ip_address("10.0.0.7"))
    assert await KEY.is_theirs(MINE, KEY.token(MINE, "2001:db8:0:0::1"), ip_address("2001:db8::1"))
