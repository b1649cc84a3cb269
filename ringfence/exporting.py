"""A run's story as a file: the signed checkpoint, then each entry's exact bytes with its path to the root of that.

One JSON object a line. The first is `{"checkpoint": NOTE}` (C2SP signed note). Every other is `{"position", "entry":
base64 of the exact bytes, "proof": [hex]}`; leaf and path hash as in RFC 6962 to the root that the note signs.
"""

from __future__ import annotations

import asyncio
import base64
import json

from sqlalchemy import Connection

from ringfence.errors import Unavailable
from ringfence_audit.notes import parse_checkpoint, parse_note
from ringfence_audit.query import raw_of, story
from ringfence_audit.store import SqlStore
from ringfence_audit.tree import TreeReader


def export_run(store: SqlStore, run: str) -> list[bytes]:
    """The lines, newest checkpoint first. Signs a checkpoint, so that every entry is covered by one."""
    note = asyncio.run(store.checkpoint())
    if note is None:
        raise Unavailable("the log is empty", fix="Start a run first")
    size = parse_checkpoint(parse_note(note).text).size

    def work(connection: Connection) -> list[bytes]:
        tree = TreeReader(connection)
        lines = [_line({"checkpoint": note})]
        for entry in story(connection, run):
            if entry.position < size:
                proof = [step.hex() for step in tree.inclusion(entry.position, size)]
                raw = base64.b64encode(raw_of(connection, entry.position)).decode()
                lines.append(_line({"position": entry.position, "entry": raw, "proof": proof}))
        return lines

    return store.read_now(work)


def _line(value: dict[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
