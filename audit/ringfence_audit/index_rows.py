"""From an entry to what the index keeps of it: one row of words, further words, and the text to search. Pure.

A dimension with at most one word an entry is a column of the row; the others are postings. `run` gives the task,
which only a run's first entry names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ringfence_audit.events import JsonValue
from ringfence_audit.facts import Entry, facts, texts

VERSION = 1
"""Of what is derived. An index of another version is built anew."""

COLUMNS = ("kind", "run", "task", "actor", "agent", "tool", "decision", "outcome")
POSTINGS = frozenset({"person", "approver", "rule", "host", "path", "grant", "escalation", "vote", "profile"})
"""`call` and `digest` are in neither: a call is found by its run, a digest by its text."""
TEXT_LIMIT = 64 * 1024
"""Characters of an entry that full-text search covers."""


@dataclass(frozen=True, slots=True)
class Row:
    """`words` are those of `COLUMNS`, None where there is none; `more` are (dimension, word) pairs."""

    position: int
    time_us: int
    is_refused: bool
    words: tuple[str | None, ...]
    more: tuple[tuple[str, str], ...]


def row_of(entry: Entry, task: str | None) -> Row:
    """What the index keeps of an entry. `task` is that of its run, where it is known."""
    found: dict[str, str] = {}
    more: list[tuple[str, str]] = []
    is_refused = False
    for dimension, word in facts(entry):
        if dimension in POSTINGS:
            more.append((dimension, word))
        elif dimension == "refused":
            is_refused = True
        else:
            found.setdefault(dimension, word)
    if task is not None:
        found["task"] = task
    words = tuple([found.get(name) for name in COLUMNS])
    return Row(entry.position, int(entry.time.timestamp() * 1_000_000), is_refused, words, tuple(more))


def text_of(data: Mapping[str, JsonValue]) -> str:
    """The text to search, one value a line."""
    return "\n".join(_limited(texts(data)))


def _limited(values: Iterable[str]) -> Iterator[str]:
    left = TEXT_LIMIT
    for value in values:
        yield value[:left]
        left -= len(value) + 1
        if left <= 0:
            return
