"""ETags over what the API answers: a client that has it already is sent 304 and no body (RFC 9110, section 13)."""

from __future__ import annotations

import hashlib

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class ETags:
    """For `GET` answers in JSON; anything else, and all that streams, passes through as it comes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET" or not scope["path"].startswith("/api/"):
            await self._app(scope, receive, send)
            return
        known = Headers(scope=scope).get("if-none-match", "")
        await self._app(scope, receive, _Tagger(send, known))


class _Tagger:
    def __init__(self, send: Send, known: str) -> None:
        self._send = send
        self._known = {part.strip().removeprefix("W/") for part in known.split(",")}
        self._start: Message | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kind = Headers(raw=message["headers"]).get("content-type", "")
            if message["status"] == 200 and kind.startswith("application/json"):
                self._start = message
                return
        elif self._start is not None and not message.get("more_body", False):
            await self._finish(self._start, message)
            return
        elif self._start is not None:
            # An answer in several parts is not ours to hold back.
            await self._send(self._start)
            self._start = None
        await self._send(message)

    async def _finish(self, start: Message, last: Message) -> None:
        body = last.get("body", b"")
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        headers = MutableHeaders(scope=start)
        headers["ETag"] = tag
        headers["Cache-Control"] = "private, no-cache"
        if tag in self._known or "*" in self._known:
            start["status"] = 304
            del headers["content-length"]
            last = {"type": "http.response.body", "body": b""}
        await self._send(start)
        await self._send(last)
