"""Answers in the forms that others read: JSON lines, CSV that no spreadsheet executes, OCSF, Parquet.

For people and tools that look at data. Evidence has a form of its own (`ringfence audit export`).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from ringfence.errors import Mistake
from ringfence.settings import LOG_ORIGIN
from ringfence_audit.events import JsonValue
from ringfence_audit.facts import Entry
from ringfence_audit.mapping import to_ocsf

Form: TypeAlias = Literal["table", "json", "jsonl", "csv", "ocsf", "parquet"]
COLUMNS = ("position", "time", "kind", "run", "call", "actor", "on_behalf_of", "n", "data")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class Told:
    """An entry and its exact bytes."""

    entry: Entry
    raw: bytes


def entry_json(entry: Entry) -> dict[str, JsonValue]:
    """An entry as an object for scripts."""
    return {
        "type": "entry",
        "position": entry.position,
        "kind": entry.kind,
        "run": entry.run,
        "call": entry.call,
        "actor": entry.actor,
        "on_behalf_of": entry.on_behalf_of,
        "time": entry.time.isoformat(),
        "n": entry.n,
        "previous": entry.previous,
        "data": dict(entry.data),
    }


def lines_of(form: Form, told: Iterable[Told]) -> Iterator[str]:
    """The answer as lines of text, each with its newline. Parquet is no text: see `write_parquet`."""
    match form:
        case "json":
            yield "["
            for at, item in enumerate(told):
                yield (",\n" if at else "\n") + json.dumps(entry_json(item.entry))
            yield "\n]\n"
        case "jsonl" | "table":
            yield from (json.dumps(entry_json(item.entry)) + "\n" for item in told)
        case "ocsf":
            yield from (json.dumps(to_ocsf(item.entry, item.raw, origin=LOG_ORIGIN)) + "\n" for item in told)
        case "csv":
            yield from _csv(told)
        case _:
            raise Mistake(f"{form} is no text", fix="Name a file with --out")


def _csv(told: Iterable[Told]) -> Iterator[str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL)
    writer.writerow(COLUMNS)
    for item in told:
        writer.writerow([_cell(value) for value in _values(item.entry)])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()


def _cell(value: str | int) -> str:
    """Text that a spreadsheet would take for a formula gets an apostrophe in front; control characters go."""
    text = "".join(c if c >= " " or c in "\n\t" else " " for c in str(value))
    return f"'{text}" if text.startswith(_FORMULA) else text


def _values(entry: Entry) -> tuple[str | int, ...]:
    data = json.dumps(dict(entry.data), sort_keys=True)
    names = (entry.kind, entry.run, entry.call, entry.actor, entry.on_behalf_of)
    return (entry.position, entry.time.isoformat(), *names, entry.n, data)


def write_text(form: Form, told: Iterable[Told], out: Path) -> None:
    with out.open("x", encoding="utf-8", newline="") as file:
        file.writelines(lines_of(form, told))


def write_parquet(told: Iterable[Told], out: Path) -> None:
    """Columns as in `COLUMNS`, `data` as JSON text. Needs the extra `ringfence[parquet]`. Raises `Mistake`."""
    try:
        import pyarrow as arrow  # type: ignore[import-untyped]  # ships no types
        from pyarrow import parquet
    except ImportError as error:
        raise Mistake("Parquet needs a library", fix="pip install 'ringfence[parquet]'") from error
    stamp = arrow.timestamp("us", tz="UTC")
    kinds = (arrow.int64(), stamp, *(arrow.string(),) * 5, arrow.int64(), arrow.string())
    schema = arrow.schema(list(zip(COLUMNS, kinds, strict=True)))
    with parquet.ParquetWriter(str(out), schema) as writer:
        for batch in _batches(told, 10_000):
            rows = [(e.position, e.time, *_values(e)[2:]) for e in batch]
            columns = [arrow.array(column, kind) for column, kind in zip(zip(*rows, strict=True), kinds, strict=True)]
            writer.write_batch(arrow.record_batch(columns, schema=schema))


def _batches(told: Iterable[Told], size: int) -> Iterator[list[Entry]]:
    batch: list[Entry] = []
    for item in told:
        batch.append(item.entry)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
