"""One spelling for every host, and nothing that a resolver would read otherwise than a rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence_sandbox.egress.errors import Code, EgressRefusal
from ringfence_sandbox.egress.hosts import Authority, canonical_host, parse_authority


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "a..b", "-a.example", "a-.example", "a b", "a/b", "a%2eb", "a@b", "user:pw@host", "a\x00b", "a" * 64,
        "127.1", "0x7f.0.0.1", "0177.0.0.1", "2130706433", "0x7f000001", "1.2.3.4.5", "1.2.3.256", "example.1",
        "１２７.1", "fe80::1%eth0", "::g", "xn--a", "xn--.example", "a.b..", "é" * 80, "a*b", "[::1", "a\u200b..",
    ],
)  # fmt: skip
def test_a_spelling_that_can_be_read_in_two_ways_is_refused(text: str) -> None:
    with pytest.raises(EgressRefusal) as refused:
        canonical_host(text)
    assert refused.value.code is Code.MALFORMED


@pytest.mark.parametrize(
    "text",
    [
        "a.example", "a.example:", "a.example:0", "a.example:65536", "a.example:+443", "[1.2.3.4]:1",
        "a.example:443:1", "a.example:４４３", "[::1]", "[::1]443", "::1:443",
    ],
)  # fmt: skip
def test_a_connect_target_without_a_certain_port_is_refused(text: str) -> None:
    with pytest.raises(EgressRefusal):
        parse_authority(text)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("ｅｘａｍｐｌｅ.com", "example.com"),
        ("１２７.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "127.0.0.1"),
        ("::FFFF:127.0.0.1", "::ffff:7f00:1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("_dmarc.example.com", "_dmarc.example.com"),
        ("localhost", "localhost"),
    ],
)
def test_every_spelling_of_a_host_comes_to_one(text: str, host: str) -> None:
    assert canonical_host(text) == host


def test_an_authority_is_written_as_it_is_read() -> None:
    assert parse_authority("[::1]:8443") == Authority("::1", 8443)
    assert Authority("::1", 8443).text() == "[::1]:8443"
    assert parse_authority("a.example", default_port=80).text(80) == "a.example"


@given(st.text(max_size=80))
def test_any_text_gives_a_stable_host_or_a_refusal(text: str) -> None:
    try:
        host = canonical_host(text)
    except EgressRefusal:
        return
    assert canonical_host(host) == host
    assert host.isascii()
    assert host == host.lower()
    assert not set(host) & set(" /@%?#\\\r\n\x00")
