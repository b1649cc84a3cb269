"""What can go wrong when someone says who they are.

AuthError (a RingfenceError)
├── LoginRefused      name, password, code or answer of the provider does not hold: try again
│   └── TooManyTries  wait `retry_after_s`, then try again
├── LinkInvalid       a one-time link that is unknown, used or too old: ask for a new one
├── PasswordWeak      choose another
├── PersonUnknown     no such person, team or token
├── PersonExists      the name is taken
└── Denied            a role or a token's scope does not hold the permission
"""

from __future__ import annotations

from ringfence.errors import Refused, RingfenceError
from ringfence.exits import Exit


class AuthError(RingfenceError):
    """Base of every error of this package."""

    exit = Exit.REFUSED


class LoginRefused(AuthError):
    """Says nothing about which part was wrong."""

    def __init__(self, message: str = "name, password or code is wrong", *, fix: str = "Try again") -> None:
        super().__init__(message, fix=fix)


class TooManyTries(LoginRefused):
    """Tries from this address or for this name are slowed down."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("too many tries", fix=f"Wait {retry_after_s} s and try again")
        self.retry_after_s = retry_after_s


class LinkInvalid(AuthError):
    """The link opens nothing."""

    def __init__(self) -> None:
        super().__init__("this link was used, has expired or never existed", fix="Ask an admin for a new one")


class PasswordWeak(AuthError):
    """The password would not hold."""


class PersonUnknown(AuthError):
    """No such person, team or token."""


class PersonExists(AuthError):
    """The name is taken."""


class Denied(AuthError, Refused):
    """The caller is known, and may not."""
