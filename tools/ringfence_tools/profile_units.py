"""Quantities that people write in a profile (`2h`, `4Gi`, `80%`, `3.50`) as integers of one unit.

Money is integer micro-dollars, times are seconds, sizes are bytes. Anything without its unit is refused, since a bare
`4` under `memory` has meant megabytes, gigabytes and bytes to different people. Raises `ValueError` with what to
write, which pydantic turns into a problem with its place.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Annotated, TypeAlias

from pydantic import BeforeValidator

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
_DURATION = re.compile(r"^([0-9]{1,7})([smhd])$")
_SIZE = re.compile(r"^([0-9]{1,7})(Ki|Mi|Gi|Ti)$")
_PERCENT = re.compile(r"^([0-9]{1,3})%$")
MICRO = 1_000_000
MAX_USD = 1_000_000


def parse_duration(value: object) -> int:
    """`90s`, `15m`, `2h`, `30d` in seconds."""
    found = _DURATION.match(value) if isinstance(value, str) else None
    if found is None or int(found[1]) == 0:
        raise ValueError("write a duration with its unit, such as 90s, 15m, 2h or 30d")
    return int(found[1]) * _SECONDS[found[2]]


def parse_size(value: object) -> int:
    """`512Mi`, `4Gi` in bytes."""
    found = _SIZE.match(value) if isinstance(value, str) else None
    if found is None or int(found[1]) == 0:
        raise ValueError("write a size with its unit, such as 512Mi or 4Gi")
    return int(found[1]) * _BYTES[found[2]]


def parse_percent(value: object) -> int:
    """`80%` as 80."""
    found = _PERCENT.match(value) if isinstance(value, str) else None
    if found is None or not 0 < int(found[1]) <= 100:
        raise ValueError("write a percentage between 1% and 100%")
    return int(found[1])


def parse_usd(value: object) -> int:
    """US dollars (`3`, `2.50`) in micro-dollars; at most six decimals, never negative."""
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        raise ValueError("write US dollars as a number, such as 3 or 2.50")
    try:
        micro = Decimal(value) * MICRO
    except InvalidOperation as error:
        raise ValueError("write US dollars as a number, such as 3 or 2.50") from error
    if not micro.is_finite() or micro < 0 or micro > MAX_USD * MICRO or micro != micro.to_integral_value():
        raise ValueError("US dollars lie between 0 and 1000000, with at most six decimals")
    return int(micro)


def duration_text(seconds: int) -> str:
    """The shortest exact way to write a duration."""
    for unit in ("d", "h", "m"):
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{seconds // _SECONDS[unit]}{unit}"
    return f"{seconds}s"


def size_text(size_bytes: int) -> str:
    """The shortest exact way to write a size."""
    for unit in ("Ti", "Gi", "Mi", "Ki"):
        if size_bytes and size_bytes % _BYTES[unit] == 0:
            return f"{size_bytes // _BYTES[unit]}{unit}"
    return f"{size_bytes} bytes"


def usd_text(micro_usd: int) -> str:
    """Micro-dollars as dollars, without needless zeros."""
    return f"${Decimal(micro_usd) / MICRO:f}"


Seconds: TypeAlias = Annotated[int, BeforeValidator(parse_duration)]
Bytes: TypeAlias = Annotated[int, BeforeValidator(parse_size)]
Percent: TypeAlias = Annotated[int, BeforeValidator(parse_percent)]
MicroUsd: TypeAlias = Annotated[int, BeforeValidator(parse_usd)]
