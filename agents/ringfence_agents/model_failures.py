"""What a failure of a model endpoint means: ask again, stop, or send less. Pure."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from openai import APIConnectionError, APIError, APIStatusError

from ringfence_agents.errors import ContextTooLong, ModelRefused
from ringfence_agents.model import storable

MESSAGE_LIMIT_CHARS = 300
_AGAIN = frozenset({408, 409, 425, 429})
_TOO_LONG = re.compile(
    r"context.{0,20}(length|window|size)|maximum.{0,20}tokens|too many tokens|(prompt|input|request).{0,20}too long",
    re.IGNORECASE,
)
_NO_CREDIT = ("insufficient_quota", "billing_hard_limit_reached")
_FIXES = {
    401: "Check the API key (OPENAI_API_KEY or the profile's credential).",
    403: "Check what the API key may use.",
    404: "Check the model's name and the base URL (OPENAI_BASE_URL).",
}


class StreamBroken(Exception):
    """The stream ended, or said something, that is no whole answer."""


class OverLong(Exception):
    """The response is longer than its bound."""


class Unsupported(Exception):
    """The endpoint does not know an optional field."""

    def __init__(self, field: str, said: str) -> None:
        super().__init__(f"the endpoint does not know {field}: {said}")
        self.field = field


@dataclass(frozen=True, slots=True)
class Retry:
    """Ask again; `after_s` is the endpoint's own wish, None where it has none."""

    why: str
    after_s: float | None = None


def unsupported_field(error: Exception, fields: tuple[str, ...]) -> Unsupported | None:
    """Which of our optional fields a 400 complains about."""
    if not isinstance(error, APIStatusError) or error.status_code not in (400, 422):
        return None
    said = _said(error, "")
    return next((Unsupported(field, said) for field in fields if field in said), None)


def verdict(error: Exception, *, secret: str, model: str) -> Retry:
    """`Retry`, or raises `ModelRefused` or `ContextTooLong`. `secret` is cut out of whatever the endpoint says."""
    said = _said(error, secret)
    if isinstance(error, APIStatusError):
        return _status_verdict(error, said, model)
    if isinstance(error, APIConnectionError) and _is_untrusted(error):
        fix = "Trust the endpoint's CA on this machine (SSL_CERT_FILE), or check the base URL."
        raise ModelRefused(
            f"model {model}: the certificate of the endpoint is not trusted ({said})", fix=fix
        ) from error
    if isinstance(error, APIError):
        if _TOO_LONG.search(said):
            raise ContextTooLong(f"model {model}: {said}") from error
        if _code(error) in _NO_CREDIT:
            raise ModelRefused(f"model {model}: {said}", fix="Top up the account behind the API key.") from error
    return Retry(f"{type(error).__name__}: {said}")


def _status_verdict(error: APIStatusError, said: str, model: str) -> Retry:
    status = error.status_code
    if status == 413 or (status in (400, 422, 500) and _TOO_LONG.search(said)):
        raise ContextTooLong(f"model {model}: {said}") from error
    if _code(error) in _NO_CREDIT:
        raise ModelRefused(f"model {model}: {said}", fix="Top up the account behind the API key.") from error
    if status in _AGAIN or status >= 500:
        return Retry(f"HTTP {status}: {said}", retry_after_s(error.response.headers))
    fix = _FIXES.get(status, "Check the model's name, the base URL and what the endpoint supports.")
    raise ModelRefused(f"model {model}: HTTP {status}: {said}", fix=fix) from error


def _code(error: APIError) -> str:
    return error.code if isinstance(error.code, str) else ""


def _said(error: Exception, secret: str) -> str:
    """What the error says, bounded, on one line, without the key."""
    text = storable(" ".join(str(error).split()))
    if len(secret) >= 8:
        text = text.replace(secret, "[key]")
    return text[:MESSAGE_LIMIT_CHARS] or type(error).__name__


def _is_untrusted(error: BaseException) -> bool:
    seen: BaseException | None = error
    for _ in range(8):
        if seen is None:
            return False
        if isinstance(seen, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def retry_after_s(headers: Mapping[str, str], *, now: datetime | None = None) -> float | None:
    """`retry-after-ms`, or `retry-after` in seconds or as a date (RFC 9110 10.2.3); None where neither is readable."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            value = float(headers.get(name, ""))
        except ValueError:
            continue
        return value / unit if 0 <= value < 1e9 else None
    try:
        moment = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - (now or datetime.now(UTC))).total_seconds())
