"""What an operator sets once so that the way out works behind a company's own proxy and TLS inspection."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, SecretStr

from ringfence_sandbox.egress.dialer import Upstream
from ringfence_sandbox.egress.errors import EgressMisconfigured, EgressRefusal
from ringfence_sandbox.egress.hosts import canonical_host, parse_authority


def _checked_url(value: SecretStr) -> SecretStr:
    if value.get_secret_value():
        _upstream(value.get_secret_value(), ())
    return value


def _checked_host(value: str) -> str:
    try:
        return ("." if value.startswith(".") else "") + canonical_host(value.lstrip("."))
    except EgressRefusal as error:
        raise ValueError(error.reason) from error


class EgressSettings(BaseModel):
    """`upstream`: the company's proxy, `http(s)://[user:password@]host:port`, or "". `direct`: hosts reached without
    it, `.suffix` for a whole domain. `ca_files`: PEM files with the company's own roots, trusted beside the system's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    upstream: Annotated[SecretStr, AfterValidator(_checked_url)] = SecretStr("")
    direct: tuple[Annotated[str, AfterValidator(_checked_host)], ...] = ()
    ca_files: tuple[Path, ...] = ()

    def proxy(self) -> Upstream | None:
        """The company's proxy, or None."""
        url = self.upstream.get_secret_value()
        return _upstream(url, self.direct) if url else None

    def certificates(self) -> tuple[bytes, ...]:
        """The company's roots as PEM, also for the sandbox's own bundle. Raises `EgressMisconfigured`."""
        return tuple(_certificates(path) for path in self.ca_files)

    def client_context(self) -> ssl.SSLContext:
        """What the proxy itself trusts: the system's roots and the company's. Raises `EgressMisconfigured`."""
        context = ssl.create_default_context()
        for path, text in zip(self.ca_files, self.certificates(), strict=True):
            try:
                context.load_verify_locations(cadata=text.decode("ascii"))
            except (ssl.SSLError, ValueError) as error:
                raise EgressMisconfigured(f"{path} holds no PEM certificates") from error
        return context


def _certificates(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EgressMisconfigured(f"The CA file {path} cannot be read: {error.strerror}") from error


def _upstream(url: str, direct: tuple[str, ...]) -> Upstream:
    try:
        parts = urlsplit(url)
        authority = parse_authority(parts.netloc.rpartition("@")[2])
    except (ValueError, EgressRefusal) as error:
        raise ValueError("the upstream proxy is no URL with host and port") from error
    if parts.scheme not in ("http", "https") or parts.path not in ("", "/"):
        raise ValueError("the upstream proxy is written http(s)://[user:password@]host:port")
    credential = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else ""
    return Upstream(authority, is_tls=parts.scheme == "https", credential=credential, direct=direct)
