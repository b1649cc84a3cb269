"""Proofs as text, in the C2SP forms that independent checkers read. Pure.

Inclusion is a tlog-proof (c2sp.org/tlog-proof): magic line, `index N`, the audit path in base64 from the leaf up, an
empty line, then the signed checkpoint. Consistency has the form in which a witness is asked (c2sp.org/tlog-witness):
`old N`, the path, an empty line, then the newer checkpoint.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass

from ringfence_audit.errors import InvalidExport
from ringfence_audit.merkle import HASH_SIZE

MAGIC = "c2sp.org/tlog-proof@v1"
MAX_PATH = 63


@dataclass(frozen=True, slots=True)
class ConsistencyRequest:
    """What a log shows a witness: the size it is known by, the path from there, and its newer signed checkpoint."""

    old: int
    path: tuple[bytes, ...]
    note: str


def inclusion_text(index: int, path: Sequence[bytes], note: str = "") -> str:
    """A tlog-proof; without `note`, everything that stands before the checkpoint."""
    return f"{MAGIC}\nindex {index}\n{_lines(path)}\n{note}"


def consistency_text(old: int, path: Sequence[bytes], note: str = "") -> str:
    """A witness request; without `note`, everything that stands before the checkpoint."""
    return f"old {old}\n{_lines(path)}\n{note}"


def _lines(path: Sequence[bytes]) -> str:
    return "".join(base64.b64encode(step).decode() + "\n" for step in path)


def parse_consistency(text: str) -> ConsistencyRequest:
    """Read a witness request. Raises `InvalidExport`."""
    head, blank, note = text.partition("\n\n")
    first, *rest = head.split("\n")
    size = first.removeprefix("old ")
    if not blank or not first.startswith("old ") or not is_decimal(size):
        raise InvalidExport("a consistency proof begins with its old size and ends with an empty line")
    return ConsistencyRequest(int(size), _path(rest), note)


def _path(lines: Sequence[str]) -> tuple[bytes, ...]:
    if len(lines) > MAX_PATH:
        raise InvalidExport(f"a proof has at most {MAX_PATH} hashes")
    try:
        path = tuple(base64.b64decode(line, validate=True) for line in lines)
    except (binascii.Error, ValueError) as error:
        raise InvalidExport("a proof is not base64") from error
    if any(len(step) != HASH_SIZE for step in path):
        raise InvalidExport("a proof holds something that is not a hash")
    return path


def is_decimal(text: str) -> bool:
    """A plain number below 10^16, without leading zeros."""
    return text.isascii() and text.isdigit() and len(text) <= 16 and (text == "0" or text[0] != "0")
