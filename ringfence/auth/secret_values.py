"""The secrets that Ringfence hands out: tokens, session ids, one-time links. Only their SHA-256 is stored.

They carry 256 random bits, so a fast hash is enough; passwords are another matter (`passwords`).
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass

TOKEN_PREFIX = "rf_"  # noqa: S105 a prefix that secret scanners can recognise, not a secret
_TOKEN = re.compile(r"rf_([0-9a-z]{12})_([A-Za-z0-9_-]{43})\Z")
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class TokenText:
    """A token as its owner sees it once: `rf_ID_SECRET`."""

    id: str
    secret: str

    def __str__(self) -> str:
        return f"{TOKEN_PREFIX}{self.id}_{self.secret}"

    def __repr__(self) -> str:
        return f"TokenText({self.id})"


def new_token() -> TokenText:
    return TokenText("".join(secrets.choice(_ALPHABET) for _ in range(12)), secrets.token_urlsafe(32))


def read_token(text: str) -> TokenText | None:
    """The parts of a token's text; None for anything else."""
    match = _TOKEN.match(text)
    return None if match is None else TokenText(match[1], match[2])


def new_secret() -> str:
    """43 URL-safe characters."""
    return secrets.token_urlsafe(32)


def fingerprint(secret: str) -> str:
    """What is stored of a secret: 64 hex characters."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
