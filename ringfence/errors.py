"""What can go wrong on the way between a person and the rooms below.

RingfenceError            carries the exit code and what to do about it
├── Mistake               what was typed or configured cannot work as it is: the person mends it
├── Refused               a rule, a role or a check says no: ask whom the message names
└── Unavailable           something does not answer or has no room: try again when it does
"""

from __future__ import annotations

from typing import ClassVar

from ringfence.exits import Exit


class RingfenceError(Exception):
    """One line that says what failed, and `fix`: what the reader can do about it."""

    exit: ClassVar[Exit] = Exit.FAILED

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(f"{message}. {fix}" if fix else message)
        self.message = message
        self.fix = fix


class Mistake(RingfenceError):
    """The command cannot be carried out as it was given."""

    exit = Exit.USAGE


class Refused(RingfenceError):
    """Ringfence will not do this, whoever asks in this way."""

    exit = Exit.REFUSED


class Unavailable(RingfenceError):
    """Something that this needs is out of reach at the moment."""

    exit = Exit.UNAVAILABLE
