"""What every handler of the API and the console is given: the store, who vouches for people, and where we are reached.

One value, made in `serving` (or by a test), kept on the application; no handler reads settings or clocks by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urlsplit

from ringfence.api.catalogue import Catalogue
from ringfence.api.feed import Feed
from ringfence.api.verdicts import Verdicts
from ringfence.auth.provider import Provider
from ringfence.auth.sealing import Seal
from ringfence.errors import Mistake
from ringfence.settings import Settings
from ringfence.wiring import Workshop
from ringfence_audit.store import SqlStore
from ringfence_tools.clock import micros
from ringfence_tools.toolbox import Toolbox

LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Origin:
    """The one address under which browsers reach us. Cookies, CSRF and links rest on it."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> Origin:
        """Raises `Mistake` for anything but `https://HOST[:PORT]`, or http on this machine."""
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise Mistake(f"{url!r} is no address", fix="Write https://ringfence.example.org") from error
        host = (parts.hostname or "").lower()
        if parts.scheme not in ("http", "https") or not host or parts.path not in ("", "/") or parts.query:
            raise Mistake(f"{url!r} is no address to be reached at", fix="Write https://ringfence.example.org")
        if parts.scheme == "http" and host not in LOOPBACK:
            raise Mistake(
                f"{url!r} would carry passwords in the clear",
                fix="Put a TLS proxy in front and give its address with --url https://…, or listen on localhost",
            )
        return cls(parts.scheme, host, port)

    @property
    def is_secure(self) -> bool:
        return self.scheme == "https"

    @property
    def text(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        is_usual = self.port == (443 if self.is_secure else 80)
        return f"{self.scheme}://{host}" + ("" if is_usual else f":{self.port}")

    def is_ours(self, origin: str) -> bool:
        """Whether an `Origin` header names us; on loopback any of its names does."""
        if origin == self.text:
            return True
        try:
            found = Origin.parse(origin)
        except Mistake:
            return False
        return (
            self.host in LOOPBACK and found.host in LOOPBACK and (found.scheme, found.port) == (self.scheme, self.port)
        )

    def is_host(self, header: str) -> bool:
        """Whether a `Host` header names us: a page of another name that resolves here reaches nothing."""
        return bool(header) and self.is_ours(f"{self.scheme}://{header}")


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class House:
    """`workshop` is None where no task can be assigned from here (a read-only replica, a test)."""

    settings: Settings
    store: SqlStore
    seal: Seal
    toolbox: Toolbox
    origin: Origin
    feed: Feed
    verdicts: Verdicts
    workshop: Workshop | None = None
    clock: Callable[[], datetime] = field(default=_now)
    catalogue: Catalogue = field(default_factory=Catalogue)
    provider: Provider | None = None
    """Where people log in beside, or instead of, a local password."""

    def now_us(self) -> int:
        return micros(self.clock())

    @property
    def session_cookie(self) -> str:
        """`__Host-` binds a cookie to this host and to TLS; without TLS (localhost) no browser would keep it."""
        return "__Host-ringfence" if self.origin.is_secure else "ringfence"
