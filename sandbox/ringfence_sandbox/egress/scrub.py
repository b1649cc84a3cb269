"""Takes a credential out of what a server says: some repeat a request in their answer, and the sandbox reads that.

Pure. A credential is found as it was sent, without its scheme, decoded where the scheme is Basic, and as a URL or JSON
would write it. What a server changes in another way (reverses, encrypts) is not: a profile names only hosts for
credentials that it trusts with them.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from urllib.parse import quote

from ringfence_sandbox.egress.streams import Stream

_SHORTEST = 8
"""Less than this may stand anywhere by chance."""
_TELLING = 4
"""An end is held back where it begins a credential with so many bytes: with fewer, streams would stall by chance."""


def forms(values: Iterable[str]) -> frozenset[bytes]:
    """What to look for, given the values of the headers that were added."""
    found: set[str] = set()
    for value in values:
        scheme, blank, rest = value.strip().partition(" ")
        token = rest.strip() if blank else scheme
        found.add(token)
        if scheme.lower() == "basic":
            found |= _of_basic(token)
    texts = {form for text in found for form in (text, quote(text, safe=""), quote(text), text.replace("/", "\\/"))}
    return frozenset(text.encode() for text in texts if len(text) >= _SHORTEST)


def _of_basic(token: str) -> set[str]:
    try:
        pair = base64.b64decode(token, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return set()
    return {pair, pair.partition(":")[2]}


class Scrubber:
    """Stars in place of each form, over pieces of any size; as many bytes leave as came. For one stream."""

    def __init__(self, secrets: frozenset[bytes]) -> None:
        self._secrets = secrets
        longest_first = sorted(secrets, key=lambda secret: (-len(secret), secret))
        self._pattern = re.compile(b"|".join(map(re.escape, longest_first))) if secrets else None
        self._longest = max(map(len, secrets), default=0)
        self._told = b""
        self._held = b""

    def whole(self, data: bytes) -> bytes:
        """A value that comes in one piece."""
        return data if self._pattern is None else self._pattern.sub(lambda found: b"*" * len(found[0]), data)

    def feed(self, data: bytes) -> bytes:
        """What can be passed on; the rest follows with the next piece, or at the `end`."""
        if self._pattern is None:
            return data
        seen = self.whole(self._told + self._held + data)
        at = max(len(self._told), len(seen) - self._begun(seen))
        passed, self._held = seen[len(self._told) : at], seen[at:]
        self._told = seen[:at][1 - _TELLING :]
        return passed

    def end(self) -> bytes:
        """What was held back to the last: the beginning of a credential that did not follow."""
        held, self._held = self._held, b""
        return held

    def _begun(self, seen: bytes) -> int:
        """How many of the last bytes begin a form."""
        for size in range(min(self._longest - 1, len(seen)), _TELLING - 1, -1):
            if any(secret.startswith(seen[-size:]) for secret in self._secrets):
                return size
        return 0


class ScrubbedStream:
    """What comes from a server, scrubbed; what goes there is left as it is. Owns the stream."""

    def __init__(self, stream: Stream, secrets: frozenset[bytes]) -> None:
        self._stream = stream
        self._scrubber = Scrubber(secrets)

    async def receive(self) -> bytes:
        while data := await self._stream.receive():
            passed = self._scrubber.feed(data)
            if passed:
                return passed
        return self._scrubber.end()

    async def send(self, data: bytes) -> None:
        await self._stream.send(data)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    def close(self) -> None:
        self._stream.close()
