"""Passwords (scrypt, RFC 7914) and one-time codes (TOTP, RFC 6238: SHA-1, six digits, 30 s)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import struct
from urllib.parse import quote

from ringfence.auth.errors import PasswordWeak

SHORTEST = 12
LONGEST = 512
_COST, _BLOCK, _LANES = 1 << 15, 8, 1
_MEMORY = 64 << 20
STEP_S = 30
_DRIFT = 1
"""Steps before and after the present one that are accepted."""


def hash_password(password: str) -> str:
    """`scrypt$N$r$p$salt$hash`, base64. Takes about 100 ms by design. Raises `PasswordWeak`."""
    if len(password) < SHORTEST:
        raise PasswordWeak(f"a password has at least {SHORTEST} characters", fix="A few random words do well")
    if len(password) > LONGEST:
        raise PasswordWeak(f"a password has at most {LONGEST} characters", fix="Choose a shorter one")
    if len(set(password)) < 5:
        raise PasswordWeak("this password repeats itself", fix="A few random words do well")
    salt = secrets.token_bytes(16)
    return f"scrypt${_COST}${_BLOCK}${_LANES}${_text(salt)}${_text(_derive(password, salt))}"


def is_password(password: str, stored: str) -> bool:
    """Constant-time comparison; takes the same time for an account without password, so that none can be told apart."""
    parts = stored.split("$")
    if len(parts) != 6 or len(password) > LONGEST:
        _derive(password[:LONGEST], b"\0" * 16)
        return False
    return hmac.compare_digest(_derive(password, base64.b64decode(parts[4])), base64.b64decode(parts[5]))


def _derive(password: str, salt: bytes) -> bytes:
    raw = password.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(raw, salt=salt, n=_COST, r=_BLOCK, p=_LANES, maxmem=_MEMORY, dklen=32)


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def new_seed() -> str:
    """A TOTP seed: 160 bits in base32, as authenticator apps take it."""
    return base64.b32encode(secrets.token_bytes(20)).decode()


def seed_uri(seed: str, person: str, issuer: str) -> str:
    """The `otpauth:` address that authenticator apps open."""
    return f"otpauth://totp/{quote(issuer)}:{quote(person)}?secret={seed}&issuer={quote(issuer)}"


def code_at(seed: str, step: int) -> str:
    """The six digits of a time step (RFC 4226, section 5.3)."""
    # SHA-1 is what every authenticator app implements; HMAC does not rest on its collision resistance.
    mac = hmac.new(base64.b32decode(seed), struct.pack(">Q", step), hashlib.sha1).digest()
    at = mac[-1] & 15
    return f"{(struct.unpack('>I', mac[at : at + 4])[0] & 0x7FFFFFFF) % 1_000_000:06d}"


def matching_step(seed: str, code: str, *, now_s: int, after: int) -> int | None:
    """The time step that `code` belongs to, later than `after` (the last one used); None where it does not hold."""
    wanted = "".join(code.split())
    if not seed or len(wanted) != 6 or not wanted.isascii() or not wanted.isdigit():
        return None
    present = now_s // STEP_S
    found = None
    for step in range(present - _DRIFT, present + _DRIFT + 1):
        if hmac.compare_digest(code_at(seed, step), wanted) and step > after:
            found = step
    return found
