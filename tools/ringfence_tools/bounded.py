"""Bounded text for the agent: head and tail, and where the rest is."""

from __future__ import annotations

from ringfence_sandbox.contract import Outcome

TEXT_LIMIT = 24_000
"""Characters of one result that go to the model."""


def bounded(text: str, *, rest: str = "") -> str:
    """At most `TEXT_LIMIT` characters: head and tail with a line between them that says how much is missing."""
    if len(text) <= TEXT_LIMIT:
        return text
    half = TEXT_LIMIT // 2
    return f"{text[:half]}\n{_gap(len(text) - 2 * half, 'characters', rest)}\n{text[-half:]}"


def output_text(outcome: Outcome) -> str:
    """An action's output as text: undecodable bytes are replaced, what was omitted is named."""
    head, tail = outcome.head.decode(errors="replace"), outcome.tail.decode(errors="replace")
    if not outcome.omitted_bytes:
        return bounded(head + tail, rest=outcome.output_path)
    half = TEXT_LIMIT // 2
    return f"{head[:half]}\n{_gap(outcome.omitted_bytes, 'bytes', outcome.output_path)}\n{tail[-half:]}"


def _gap(count: int, unit: str, rest: str) -> str:
    where = f"; the whole is in {rest}" if rest else ""
    return f"[… {count} {unit} omitted{where} …]"
