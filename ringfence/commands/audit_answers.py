"""How answers of `ringfence audit` are shown, a page at a time, as they are written, or whole into a file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

from ringfence.errors import Mistake
from ringfence.formats import Form, Told, entry_json, lines_of, write_parquet, write_text
from ringfence.render import Span
from ringfence.searching import ask, every, follow, open_index, question
from ringfence.session import Session
from ringfence_audit.facts import Entry
from ringfence_audit.query import Filter, PageRequest, raw_of

_COLUMNS = ("ENTRY", "TIME", "KIND", "RUN", "ACTOR", "WHAT")
_TOLD = ("tool", "status", "state", "verdict", "action", "host", "port", "reason", "detail", "escalation", "grant")


def read_form(text: str) -> Form:
    """Raises `Mistake`."""
    forms: tuple[Form, ...] = get_args(Form)
    for form in forms:
        if form == text:
            return form
    raise Mistake(f"{text[:40]!r} is no format", fix=f"Use {', '.join(forms)}")


def page_of(limit: int, after: int | None, *, oldest_first: bool) -> PageRequest:
    return PageRequest(limit, after, oldest_first=oldest_first)


def show_page(session: Session, wanted: Filter, request: PageRequest, form: Form) -> None:
    session.write(lambda tx: tx.record(question(session.person.principal, wanted)))
    with open_index(session.settings, session.store) as index:
        page = ask(index, session.store, wanted, request)
    if form not in ("table", "parquet"):
        sys.stdout.writelines(lines_of(form, _with_bytes(session, page.entries)))
        return
    if form == "parquet":
        raise Mistake("Parquet is no text", fix="Name a file with --out")
    for entry in page.entries:
        session.output.record(entry_json(entry))
    if page.next is not None:
        session.output.record({"type": "page", "next": page.next})
    _table(session, page.entries)
    if page.next is not None:
        session.output.line(("more: ", "dim"), f"--after {page.next}")


def show_whole(session: Session, wanted: Filter) -> None:
    """The whole answer in order."""
    session.write(lambda tx: tx.record(question(session.person.principal, wanted)))
    with open_index(session.settings, session.store) as index:
        entries = every(index, session.store, wanted)
    for entry in entries:
        session.output.record(entry_json(entry))
    _table(session, entries)


def show_as_written(session: Session, wanted: Filter) -> None:
    """Entries from now on, until interrupted."""
    session.write(lambda tx: tx.record(question(session.person.principal, wanted)))
    with open_index(session.settings, session.store) as index:
        session.store.read_now(index.catch_up)
        for entry in follow(index, session.store, wanted, after=index.next - 1):
            session.output.record(entry_json(entry))
            position, time, kind, run, actor, what = _row(entry)
            session.output.line(position, "  ", time, "  ", kind, "  ", run, "  ", actor, "  ", what)


def write_whole(session: Session, wanted: Filter, form: Form, out: Path) -> None:
    """The whole answer into a new file, which appears whole or not at all."""
    if out.exists():
        raise Mistake(f"{out} exists already", fix="Name a file that does not exist")
    session.write(lambda tx: tx.record(question(session.person.principal, wanted)))
    with open_index(session.settings, session.store) as index:
        entries = every(index, session.store, wanted)
    part = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        told = _with_bytes(session, entries)
        if form == "parquet":
            write_parquet(told, part)
        else:
            write_text("jsonl" if form == "table" else form, told, part)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    session.output.record({"type": "written", "path": str(out), "entries": len(entries)})
    session.output.line(f"wrote {len(entries)} entries to ", (str(out), "name"))


def _with_bytes(session: Session, entries: Sequence[Entry]) -> Iterator[Told]:
    for entry in entries:
        position = entry.position
        yield Told(entry, session.read(lambda connection, at=position: raw_of(connection, at)))  # type: ignore[misc]  # bound per turn


def _table(session: Session, entries: Sequence[Entry]) -> None:
    if not entries:
        session.output.line("No entry is like that.")
        return
    session.output.table(_COLUMNS, [_row(entry) for entry in entries])


def _row(entry: Entry) -> list[Span]:
    return [
        (str(entry.position), "name"),
        entry.time.strftime("%Y-%m-%d %H:%M:%S"),
        entry.kind,
        entry.call or entry.run,
        entry.actor,
        what_of(entry)[:200],
    ]


def what_of(entry: Entry) -> str:
    """One line on what an entry says. Hostile text: escape it before showing."""
    told = [f"{name}={value}" for name in _TOLD if (value := entry.data.get(name)) not in (None, "")]
    return " ".join(told) or json.dumps(dict(entry.data), ensure_ascii=False, sort_keys=True)
