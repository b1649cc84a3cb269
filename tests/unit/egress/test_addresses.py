"""Which addresses may be connected."""

from __future__ import annotations

import ipaddress

import pytest

from ringfence_sandbox.egress.addresses import Reach, place


@pytest.mark.parametrize(
    "text",
    [
        "169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192", "169.254.1.1", "0.0.0.0",
        "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "::", "fe80::1", "ff02::1", "fd00:ec2::254",
        "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "::169.254.169.254", "2001:0:1:2:3:4:5:6",
        "64:ff9b:1::a9fe:a9fe",
    ],
)  # fmt: skip
def test_metadata_and_local_addresses_are_never_reached(text: str) -> None:
    assert place(ipaddress.ip_address(text)).reach is Reach.NEVER


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1", "127.255.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "198.18.0.1", "192.0.2.1",
        "::1", "fc00::1", "fd12::1", "fec0::1", "::ffff:10.0.0.1", "::ffff:8.8.8.8", "64:ff9b::808:808",
        "2002:808:808::1", "2001:db8::1", "::7f00:1",
    ],
)  # fmt: skip
def test_inside_addresses_need_the_profile(text: str) -> None:
    assert place(ipaddress.ip_address(text)).reach is Reach.PRIVATE


@pytest.mark.parametrize("text", ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700::1", "2a00:1450:4001::1"])
def test_public_addresses_are_public(text: str) -> None:
    assert place(ipaddress.ip_address(text)).reach is Reach.PUBLIC
