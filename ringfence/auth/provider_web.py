"""The provider over HTTPS: bounded answers, no redirects, the system's trust store."""

from __future__ import annotations

import asyncio
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from urllib.parse import urlencode, urlsplit

from ringfence.auth.errors import LoginRefused

WITHIN_S = 10.0
LIMIT_BYTES = 1 << 20
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object, **__: object) -> None:
        """A token endpoint that sends a code elsewhere is not followed."""
        return


class HttpsWeb:
    """Implements `provider.Web`. Plain HTTP only to this machine."""

    def __init__(self) -> None:
        context = ssl.create_default_context()
        self._opener = urllib.request.build_opener(_NoRedirects(), urllib.request.HTTPSHandler(context=context))

    async def get_json(self, url: str) -> Mapping[str, object]:
        return await asyncio.to_thread(self._ask, urllib.request.Request(_checked(url)))  # noqa: S310 checked there

    async def post_form(self, url: str, form: Mapping[str, str]) -> Mapping[str, object]:
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        request = urllib.request.Request(_checked(url), urlencode(form).encode(), headers)  # noqa: S310 checked there
        return await asyncio.to_thread(self._ask, request)

    def _ask(self, request: urllib.request.Request) -> Mapping[str, object]:
        try:
            with self._opener.open(request, timeout=WITHIN_S) as answer:
                found = json.loads(answer.read(LIMIT_BYTES))
        except urllib.error.HTTPError as error:
            raise LoginRefused(f"the provider refused ({error.code})", fix="Try again, or tell an admin") from error
        except ValueError as error:
            raise LoginRefused("the provider's answer is not JSON", fix="Tell an admin") from error
        if not isinstance(found, dict):
            raise LoginRefused("the provider's answer is not an object", fix="Tell an admin")
        return found


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise LoginRefused("the provider names an address without TLS", fix="Tell an admin")
    return url
