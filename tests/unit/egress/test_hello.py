"""The ClientHello: read in any pieces, refused when it is out of form."""

from __future__ import annotations

import contextlib
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence_sandbox.egress.errors import Code, EgressRefusal
from ringfence_sandbox.egress.hello import ClientHello, HelloReader, check_hello
from tests.fakes.egress import client_hello, server_names


def real_hello(name: str | None) -> bytes:
    """What OpenSSL sends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def read(data: bytes) -> ClientHello | None:
    return HelloReader(1 << 16).feed(data)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"SSH-2.0-x\r\n",
        b"\x80\x2e\x01\x03\x01",  # SSL 2
        b"\x16\x04\x01\x00\x05hello",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\xff\xff",
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",  # a ServerHello
        client_hello((0, server_names(b"a.example", b"b.example"))),
        client_hello((0, server_names(b"a.example")), (0, server_names(b"b.example"))),
        client_hello((0, server_names(b"a.example", kind=1))),
        client_hello((0, server_names(b"a.example") + b"x")),
        client_hello((0, server_names(b"a.example\x00.b"))),
        client_hello((0, server_names("ä.example".encode()))),
        client_hello((0, server_names(b"a.example"))[:2], tail=b"x"),
        client_hello((5, b""), (5, b"")),
        client_hello((0, b"\x00\x10\x00\x00")),
    ],
)
def test_what_is_not_one_clear_client_hello_is_refused(data: bytes) -> None:
    with pytest.raises(EgressRefusal) as refused:
        read(data)
    assert refused.value.code is Code.CONTENT_REFUSED


@pytest.mark.parametrize("kind", [0xFE0D, 0xFFCE])
def test_a_hidden_name_is_refused_even_beside_the_right_one(kind: int) -> None:
    found = read(client_hello((0, server_names(b"a.example")), (kind, b"\x00" * 8)))
    assert found is not None
    with pytest.raises(EgressRefusal, match="encrypted"):
        check_hello(found, "a.example", is_address=False)


def test_another_name_or_none_is_refused() -> None:
    for name in ("b.example", "", "a.example.evil.example"):
        with pytest.raises(EgressRefusal):
            check_hello(ClientHello(name, is_hidden=False), "a.example", is_address=False)


def test_an_endless_hello_is_refused() -> None:
    reader = HelloReader(20_000)
    record = b"\x16\x03\x01\x40\x00" + b"\x01\x00\x4f\xff" + bytes(16380)
    with pytest.raises(EgressRefusal, match="too large"):
        while reader.feed(record) is None:
            record = b"\x16\x03\x01\x40\x00" + bytes(16384)


def test_a_client_that_connects_to_an_address_may_send_no_name() -> None:
    check_hello(ClientHello("", is_hidden=False), "192.0.2.1", is_address=True)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=12))
def test_a_real_hello_is_read_however_it_is_cut(cuts: list[int]) -> None:
    data = real_hello("Service.Example")
    reader = HelloReader(1 << 16)
    found, at = None, 0
    for size in [*cuts, len(data)]:
        found = reader.feed(data[at : at + size])
        at += size
        if at >= len(data):
            break
    assert found == ClientHello("service.example", is_hidden=False)
    assert reader.seen == data


def test_a_hello_split_over_records_is_read() -> None:
    data = real_hello("a.example")
    message = data[5:]
    halves = (message[:50], message[50:])
    split = b"".join(b"\x16\x03\x01" + len(half).to_bytes(2, "big") + half for half in halves)
    assert read(split) == ClientHello("a.example", is_hidden=False)


def test_a_hello_in_a_record_for_each_byte_is_refused_before_it_is_whole() -> None:
    reader = HelloReader(1 << 16)
    with pytest.raises(EgressRefusal, match="too many records"):
        for byte in real_hello("a.example")[5:105]:
            reader.feed(bytes((22, 3, 1, 0, 1, byte)))


@given(st.binary(max_size=400))
def test_any_bytes_give_a_hello_a_wait_or_a_refusal(tail: bytes) -> None:
    for data in (tail, b"\x16\x03\x01" + tail, client_hello((0, server_names(b"a.example")))[:60] + tail):
        with contextlib.suppress(EgressRefusal):
            assert read(data) is None or isinstance(read(data), ClientHello)
