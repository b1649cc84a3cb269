"""A credential at the egress proxy is good for one sandbox, from one address."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest

from ringfence.egress_parts import AUTHORITY_KEPT, Authorities
from ringfence_sandbox.contract import SandboxId
from ringfence_sandbox.errors import IsolationUnavailable
from ringfence_sandbox.kubernetes.egress_identity import EgressKey, carried_by

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


CLONE = SandboxId("clone-1")
PASS = KEY.token(CLONE, "10.0.0.7", carried="git.example")


@pytest.mark.parametrize(
    "token",
    [
        KEY.token(CLONE, "10.0.0.7"),
        PASS.partition(".")[0],
        PASS.partition(".")[0] + ".",
        PASS[:-2] + "AA",
        KEY.token(CLONE, "10.0.0.7") + "." + PASS.partition(".")[2],
        KEY.token(OTHER, "10.0.0.7", carried="git.example"),
        KEY.token(CLONE, "10.0.0.8", carried="git.example"),
    ],
)
async def test_what_a_credential_carries_cannot_be_changed_added_or_taken_away(token: str) -> None:
    is_plain = token == KEY.token(CLONE, "10.0.0.7")
    assert await KEY.is_theirs(CLONE, token, ip_address("10.0.0.7")) is is_plain
    assert await KEY.is_theirs(CLONE, PASS, ip_address("10.0.0.7"))
    assert (carried_by(PASS), carried_by(KEY.token(CLONE, "10.0.0.7"))) == ("git.example", "")


def shakes_hands(trusted: bytes, server: ssl.SSLContext, host: str) -> bool:
    """Whether a client that trusts this PEM alone believes the server, over memory."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(cadata=trusted.decode())
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    done: set[int] = set()
    for _ in range(10):
        for number, end in enumerate(ends):
            try:
                end.do_handshake()
                done.add(number)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError:
                return False
    return done == {0, 1}


def test_an_authority_is_trusted_by_its_own_sandbox_alone() -> None:
    proxy = KEY.authority(MINE).server_context("packages.example")
    assert not shakes_hands(KEY.authority(OTHER).certificate_pem, proxy, "packages.example")
    assert not shakes_hands(EgressKey(b"x" * 32).authority(MINE).certificate_pem, proxy, "packages.example")
    # made again by another process, a while later: the key and the name are what counts
    later = datetime.now(UTC) + timedelta(minutes=5)
    assert shakes_hands(KEY.authority(MINE, now=later).certificate_pem, proxy, "packages.example")


def test_the_proxy_makes_an_authority_anew_before_it_grows_old() -> None:
    times = iter([datetime(2026, 11, 24, tzinfo=UTC) + AUTHORITY_KEPT * step for step in (0, 0.9, 2)])
    authorities = Authorities(KEY, now=lambda: next(times))
    first = authorities(MINE)
    assert authorities(MINE) is first
    renewed = authorities(MINE)
    assert renewed.certificate.not_valid_after_utc > first.certificate.not_valid_after_utc
    assert renewed.certificate.public_key() == first.certificate.public_key()
