"""What holds for every request before any handler sees it, and for every answer after: plain ASGI, no buffering.

The `Host` must be ours (no page of another name reaches us by DNS). A request that could change something and rests on
a cookie must come from our own pages, as `Origin` or `Sec-Fetch-Site` say, which no other site can forge: so there is
no cross-site request forgery, with no token in the page. Only a bearer token excuses from that: what a browser adds by
itself, such as the password of a proxy, would not. Bodies are bounded. Answers carry the headers below.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import TypeAlias

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ringfence.api.house import House
from ringfence.api.problems import problem, response_of

BODY_LIMIT_BYTES = 12 << 20
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
BY_ADDRESS = frozenset({"/healthz", "/readyz", "/metrics"})
"""What a cluster asks by a pod's address. None of it answers to a cookie from elsewhere: `/metrics` needs a token."""
CSP = "; ".join(
    (
        "default-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "object-src 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_Scope: TypeAlias = MutableMapping[str, object]


class _TooLarge(Exception):
    """The body ran past its bound."""


class Guard:
    """Outermost middleware."""

    def __init__(self, app: ASGIApp, house: House) -> None:
        self._app = app
        self._house = house

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope["method"], scope["path"], headers)
        if refusal is not None:
            status, code, detail, fix = refusal
            await response_of(problem(status, code, detail, fix=fix))(scope, receive, self._finished(scope, send))
            return
        started = False
        finished = self._finished(scope, send)

        async def sending(message: Message) -> None:
            nonlocal started
            started = True
            await finished(message)

        try:
            await self._app(scope, _bounded(receive), sending)
        except _TooLarge:
            if not started:
                too_large = problem(413, "too_large", f"the request is larger than {BODY_LIMIT_BYTES >> 20} MiB")
                await response_of(too_large)(scope, receive, finished)

    def _refusal(self, method: str, path: str, headers: Headers) -> tuple[int, str, str, str] | None:
        origin = self._house.origin
        if path not in BY_ADDRESS and not origin.is_host(headers.get("host", "")):
            return 421, "wrong_host", "this server is not reached under that name", f"Use {origin.text}"
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length) > BODY_LIMIT_BYTES:
            return 413, "too_large", f"the request is larger than {BODY_LIMIT_BYTES >> 20} MiB", "Send less"
        if method in SAFE or headers.get("authorization", "").lower().startswith("bearer "):
            return None
        if not self._is_from_our_pages(headers):
            return 403, "cross_site", "this request does not come from a page of this server", "Send a token instead"
        return None

    def _is_from_our_pages(self, headers: Headers) -> bool:
        """A client that is no browser sends neither header, and has no cookie that could be abused."""
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site is None and origin is None:
            return "cookie" not in headers
        if site not in (None, "same-origin"):
            return False
        return origin is None or self._house.origin.is_ours(origin)

    def _finished(self, scope: Scope, send: Send) -> Send:
        is_static = scope["path"].startswith("/static/")

        async def finished(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if self._house.origin.is_secure:
                    headers["Strict-Transport-Security"] = "max-age=63072000"
                if not is_static:
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        return finished


def _bounded(receive: Receive) -> Receive:
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > BODY_LIMIT_BYTES:
            raise _TooLarge
        return message

    return bounded
