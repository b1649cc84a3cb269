"""Entries, proofs and verdicts."""

from __future__ import annotations

from datetime import datetime

from ringfence.api.forms.shape import Answered


class EntryOut(Answered):
    position: int
    kind: str
    run: str
    call: str
    actor: str
    on_behalf_of: str
    time: datetime
    n: int
    previous: str | None
    data: dict[str, object]


class ProofOut(Answered):
    """RFC 6962: the leaf is SHA-256 of 0x00 and the bytes; `path` leads to `root`, which `checkpoint` signs."""

    entry: EntryOut
    raw_base64: str
    leaf: str
    size: int
    path: list[str]
    root: str
    checkpoint: str | None
    is_proved: bool


class VerdictOut(Answered):
    grade: str
    text: str
    size: int
    at: datetime | None
