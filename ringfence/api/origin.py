"""The one address under which browsers and programs reach a server. Imports next to nothing: commands use it too."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from ringfence.errors import Mistake

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
