"""One host, one name: what is refused, what is brought into one form, what looks like another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence_tools.hosts import HostInvalid, read_host, resource_of, split_resource


@pytest.mark.parametrize(
    "text",
    ["", ".", "a..b", "-", "a b", "a/b", "a@b", "a\x00b", "[::1", "[::g]", "999.1.1.1", "x" * 2000,
     "xn--\u0000", "a_" + "b" * 300, "::ffff:999.1.1.1"],
)  # fmt: skip
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(HostInvalid):
        read_host(text)


@pytest.mark.parametrize(
    ("text", "ascii_form"),
    [
        ("PyPI.Example.ORG.", "pypi.example.org"),
        ("ｐｙｐｉ．example．org", "pypi.example.org"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("127.0.0.1", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("[::ffff:10.0.0.1]", "10.0.0.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("_dmarc.example.org", "_dmarc.example.org"),
    ],
)
def test_each_way_to_write_a_host_is_one_name(text: str, ascii_form: str) -> None:
    assert read_host(text).ascii == ascii_form


@pytest.mark.parametrize("text", ["0x7f.1", "2130706433", "0177.0.0.1", "[::ffff:10.0.0.1]"])
def test_an_address_in_disguise_is_said_to_be_one(text: str) -> None:
    assert read_host(text).is_disguised_address
    assert not read_host("127.0.0.1").is_disguised_address


@pytest.mark.parametrize(
    ("text", "looks_like"), [("pyp\u0456.org", "pypi.org"), ("\u0430pple.com", "apple.com"), ("pypi.org", "")]
)
def test_a_name_says_which_one_people_take_it_for(text: str, looks_like: str) -> None:
    assert read_host(text).looks_like == looks_like


@pytest.mark.parametrize("resource", ["host", "host:", ":443", "host:0", "host:65536", "host:4٤3", "host:-1", "a b:1"])
def test_a_resource_without_a_port_is_refused(resource: str) -> None:
    with pytest.raises(HostInvalid):
        split_resource(resource)


@given(
    st.one_of(st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str), st.just("a.example.org")),
    st.integers(1, 65535),
)
def test_a_resource_is_read_as_it_was_written(host: str, port: int) -> None:
    written = read_host(host).ascii
    assert split_resource(resource_of(written, port)) == (written, port)


@given(st.text(max_size=40))
def test_any_text_is_a_host_in_one_form_or_refused(text: str) -> None:
    try:
        host = read_host(text)
    except HostInvalid:
        return
    assert host.ascii.isascii()
    assert read_host(host.ascii).ascii == host.ascii
