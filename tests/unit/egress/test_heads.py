"""Request heads: one meaning or a refusal."""

from __future__ import annotations

import h11
import pytest

from ringfence_sandbox.egress.errors import EgressRefusal
from ringfence_sandbox.egress.heads import absolute_head, check_target, connect_authority, origin_head
from ringfence_sandbox.egress.hosts import Authority


def parsed(text: str) -> h11.Request:
    wire = h11.Connection(h11.SERVER)
    wire.receive_data(text.encode("latin-1"))
    event = wire.next_event()
    assert isinstance(event, h11.Request)
    return event


@pytest.mark.parametrize(
    "text",
    [
        "GET http://a.example/ HTTP/1.1\r\nHost: b.example\r\n\r\n",
        "GET http://a.example/ HTTP/1.1\r\nHost: a.example:81\r\n\r\n",
        "GET http://a.example:81/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET http://b.example@a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET http://a.example\\@b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET http:///x HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET https://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET ftp://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "TRACE http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "get http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET http://a.example/#x HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST http://a.example/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_a_request_with_two_meanings_is_refused(text: str) -> None:
    with pytest.raises(EgressRefusal):
        absolute_head(parsed(text))


@pytest.mark.parametrize(
    "path",
    [
        "/a/../b", "/..", "/a/%2e%2e/b", "/a/.%2E/b", "/a/%252e%252e/b", "/a/..%2fb", "/a/..%5cb", "/a\\b", "/..;x/b",
        "/a/%00", "/a%0d%0ab", "/./a",
    ],
)  # fmt: skip
def test_a_path_that_a_server_may_read_as_another_is_refused(path: str) -> None:
    with pytest.raises(EgressRefusal):
        check_target(path)


@pytest.mark.parametrize("path", ["/", "/a/b.c", "/@scope%2fname", "/a..b/...", "/x?q=../..", "/%E2%82%AC", "/a//b"])
def test_ordinary_paths_pass(path: str) -> None:
    check_target(path)


def test_a_host_other_than_the_connects_is_refused_inside_it() -> None:
    for text in (
        "GET / HTTP/1.1\r\nHost: b.example\r\n\r\n",
        "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
    ):
        with pytest.raises(EgressRefusal):
            origin_head(parsed(text), Authority("a.example", 443), scheme="https")


def test_a_connect_whose_host_differs_is_refused() -> None:
    with pytest.raises(EgressRefusal):
        connect_authority(parsed("CONNECT a.example:443 HTTP/1.1\r\nHost: b.example:443\r\n\r\n"))


def test_only_end_to_end_headers_and_no_framing_of_the_sandbox_pass() -> None:
    head = absolute_head(
        parsed(
            "POST http://A.example/p?q=1 HTTP/1.1\r\nHost: a.example:80\r\nConnection: close, X-Drop\r\nX-Drop: 1\r\n"
            "Proxy-Authorization: Basic eA==\r\nProxy-Connection: x\r\nTE: trailers\r\nX-Keep: 2\r\n"
            "Content-Length: 3\r\nUpgrade: h2c\r\nVia: 1.1 x\r\nExpect: 100-continue\r\n\r\n"
        )
    )
    assert head.headers == ((b"x-keep", b"2"),)
    assert (head.path, head.query, head.body_bytes, head.is_websocket) == ("/p", "q=1", 3, False)
    assert head.authority == Authority("a.example", 80)


@pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Host"])
def test_a_header_that_says_another_method_path_or_host_than_was_judged_does_not_pass(name: str) -> None:
    text = f"POST http://a.example/open HTTP/1.1\r\nHost: a.example\r\n{name}: /closed\r\nContent-Length: 0\r\n\r\n"
    assert absolute_head(parsed(text)).headers == ()
