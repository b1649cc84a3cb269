"""One HTTP request on its way: written anew, with credentials put in, its answer brought back without them."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

import h11

from ringfence_sandbox.contract import EgressVerdict
from ringfence_sandbox.egress.errors import Code, EgressRefusal
from ringfence_sandbox.egress.heads import DEFAULT_PORTS, Head, Header, end_to_end
from ringfence_sandbox.egress.pipes import pipe
from ringfence_sandbox.egress.scrub import ScrubbedStream, Scrubber, forms
from ringfence_sandbox.egress.streams import PrefacedStream, Stream
from ringfence_sandbox.egress.wires import InsideWire, OutsideWire

_NEVER_INJECTED = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"te"})
_NOT_WITH_CREDENTIAL = frozenset({b"accept-encoding", b"range", b"if-range", b"sec-websocket-extensions"})
"""With these an answer could carry the credential compressed or bit by bit, where nobody would know it again."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """What was added to a request and must not come back: header names in lower case, and forms of the values."""

    names: frozenset[bytes] = frozenset()
    forms: frozenset[bytes] = frozenset()

    @classmethod
    def of(cls, injected: tuple[Header, ...]) -> Secrets:
        return cls(frozenset(name for name, _ in injected), forms(value.decode("ascii") for _, value in injected))


def injected_headers(verdict: EgressVerdict) -> tuple[Header, ...]:
    """The credential headers to add, names in lower case. Raises `EgressRefusal` for ones that HTTP cannot carry."""
    return tuple(_header(name, value) for name, value in verdict.headers.items())


def _header(name: str, value: str) -> Header:
    is_sound = name.isascii() and value.isascii() and value.isprintable() and name.replace("-", "").isalnum()
    if not is_sound or name.lower().encode() in _NEVER_INJECTED:
        # The value is a secret: it stays out of the message.
        raise EgressRefusal(Code.UPSTREAM_BROKEN, f"The profile's header {name[:40]!r} cannot be sent")
    return name.lower().encode("ascii"), value.encode("ascii")


def request_out(
    head: Head, *, scheme: str, injected: tuple[Header, ...], upstream_headers: tuple[Header, ...] | None = None
) -> h11.Request:
    """The request as the server gets it; with `upstream_headers` as a company's proxy gets it, with the whole URL."""
    host = head.authority.text(DEFAULT_PORTS[scheme]).encode("ascii")
    dropped = {name for name, _ in injected} | (_NOT_WITH_CREDENTIAL if injected else frozenset())
    headers: list[Header] = [(b"host", host)]
    headers += [(name, value) for name, value in head.headers if name not in dropped]
    headers += injected
    if injected:
        headers.append((b"accept-encoding", b"identity"))
    if head.body_bytes is None:
        headers.append((b"transfer-encoding", b"chunked"))
    elif head.body_bytes > 0 or head.method in ("POST", "PUT", "PATCH"):
        headers.append((b"content-length", str(head.body_bytes).encode()))
    if head.is_websocket:
        headers += [(b"connection", b"upgrade"), (b"upgrade", b"websocket")]
    else:
        headers.append((b"connection", b"close"))
    target = head.target.encode("ascii")
    if upstream_headers is not None:
        headers += upstream_headers
        target = b"http://" + host + target
    return h11.Request(method=head.method, target=target, headers=headers)


def response_back(event: h11.Response, secrets: Secrets) -> h11.Response:
    """The answer as the sandbox gets it: end-to-end headers only, and none that carries what the proxy added."""
    whole = Scrubber(secrets.forms).whole
    headers = [(name, whole(value)) for name, value in end_to_end(event.headers) if name not in secrets.names]
    has_coding = any(name == b"transfer-encoding" for name, _ in event.headers)
    if not has_coding:
        headers += [(name, value) for name, value in event.headers if name == b"content-length"]
    return h11.Response(status_code=event.status_code, headers=headers, reason=whole(event.reason))


def _check_readable(event: h11.Response, method: bytes) -> None:
    """Refuse an answer that could carry the credential where it cannot be seen."""
    codings = {value.strip().lower() for name, value in event.headers if name == b"content-encoding"}
    has_body = method != b"HEAD" and event.status_code not in (204, 304)
    if has_body and codings - {b"identity", b""}:
        raise EgressRefusal(
            Code.CONTENT_REFUSED,
            "The server compressed its answer though it was asked not to, so the credential cannot be kept out of it",
            status=502,
        )


class Exchange:
    """Carries one request out and its response back. The caller owns both streams."""

    def __init__(self, inside: InsideWire, outside: Stream, *, idle_s: float) -> None:
        self._inside = inside
        self._outside_stream = outside
        self._outside = OutsideWire(outside, idle_s=idle_s)
        self._idle_s = idle_s

    async def run(self, request: h11.Request, *, secrets: Secrets) -> None:
        """Return when the response is through. Raises `EgressRefusal` or `SandboxHungUp`."""
        await self._outside.send(request)
        upload = asyncio.create_task(self._upload())
        download = asyncio.create_task(self._download(request.method, secrets))
        try:
            await asyncio.wait((upload, download), return_when=asyncio.FIRST_COMPLETED)
            if upload.done() and upload.exception() is not None:
                upload.result()
            await download
        finally:
            upload.cancel()
            download.cancel()
            await asyncio.gather(upload, download, return_exceptions=True)

    async def _upload(self) -> None:
        while True:
            await asyncio.sleep(0)  # what has come already is taken without waiting: others must have their turn
            event = await self._inside.next_event()
            if isinstance(event, h11.Data):
                try:
                    await self._outside.send(event)
                except EgressRefusal as refusal:
                    if refusal.code is Code.TOO_LARGE:
                        raise
                    return  # a server may answer and close before it has read all: its answer is the news
            elif isinstance(event, h11.EndOfMessage):
                with contextlib.suppress(EgressRefusal):  # as above
                    await self._outside.send(h11.EndOfMessage())
                return
            else:
                return

    async def _download(self, method: bytes, secrets: Secrets) -> None:
        scrubber = Scrubber(secrets.forms)
        while True:
            await asyncio.sleep(0)  # as above
            event = await self._outside.next_event()
            if isinstance(event, h11.InformationalResponse):
                if event.status_code == 101:
                    await self._switch(event, secrets)
                    return
            elif isinstance(event, h11.Response):
                if secrets.forms:
                    _check_readable(event, method)
                await self._inside.send(response_back(event, secrets))
            elif isinstance(event, h11.Data):
                await self._pass_on(scrubber.feed(bytes(event.data)))
            elif isinstance(event, h11.EndOfMessage):
                await self._pass_on(scrubber.end())
                await self._inside.send(h11.EndOfMessage())
                return
            else:
                raise EgressRefusal(Code.UPSTREAM_BROKEN, "The server closed without an answer")

    async def _pass_on(self, data: bytes) -> None:
        if data:
            await self._inside.send(h11.Data(data=data))

    async def _switch(self, event: h11.InformationalResponse, secrets: Secrets) -> None:
        whole = Scrubber(secrets.forms).whole
        kept = [(name, whole(value)) for name, value in end_to_end(event.headers) if name not in secrets.names]
        headers = [*kept, (b"connection", b"upgrade"), (b"upgrade", b"websocket")]
        await self._inside.send(h11.InformationalResponse(status_code=101, headers=headers, reason=b""))
        inside = PrefacedStream(self._inside.http.trailing_data[0], self._inside.stream)
        outside = PrefacedStream(self._outside.http.trailing_data[0], self._outside_stream)
        try:
            await pipe(inside, ScrubbedStream(outside, secrets.forms), idle_s=self._idle_s)
        except OSError as error:
            raise EgressRefusal(Code.UPSTREAM_BROKEN, "The websocket broke off") from error
