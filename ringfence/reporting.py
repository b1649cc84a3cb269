"""The auditor's page of this machine, and the evidence that goes with it.

The page's SHA-256 is part of the question that the log records with the export beside it, so both prove each other.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path

from sqlalchemy import Connection

from ringfence.errors import Mistake
from ringfence.escaping import visible
from ringfence.exporting import write_export
from ringfence.settings import Settings
from ringfence.verifying import Against, verdict_of_log
from ringfence_audit import export
from ringfence_audit.anchors import anchored_size
from ringfence_audit.dropped import rows_between
from ringfence_audit.query import Filter, matching
from ringfence_audit.report import Reach, make_report
from ringfence_audit.store import SqlStore


def report_as_of(settings: Settings, store: SqlStore, moment: datetime) -> str:
    """The page, one text. Verifies the log on the way."""
    verdict = verdict_of_log(settings, store, Against())

    def work(connection: Connection) -> tuple[list[str], str]:
        note = export.newest_note(connection) or "none"
        reach = Reach(verdict.size, verdict.covered, anchored_size(connection), verdict.text, note)
        found = matching(connection, Filter(), oldest_first=True)
        report = make_report(found, moment, dropped=rows_between(connection, 0, 2**53))
        return report.lines(reach), note

    lines, _ = store.read_now(work)
    return "\n".join(visible(line) for line in lines) + "\n"


def write_report(store: SqlStore, page: str, moment: datetime, out: Path, *, actor: str) -> Path:
    """The page into `out`, its evidence beside it; neither may exist. Returns the evidence's path. Raises `Mistake`."""
    evidence = out.with_name(f"{out.name}.evidence.jsonl")
    if out.exists() or evidence.exists():
        raise Mistake(f"{out} or its evidence exists already", fix="Name a file that does not exist")
    body = page.encode()
    wanted = Filter(until=moment + timedelta(microseconds=1))
    settled = store.read_now(lambda connection: export.answer(connection, wanted))
    settled = replace(settled, query={**settled.query, "report": sha256(body).hexdigest()})
    write_export(store, settled, evidence, actor=actor)
    out.write_bytes(body)
    return evidence
