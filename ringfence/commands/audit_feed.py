"""`ringfence audit stream` and `report`: the log for a SIEM, and one page for the outside auditor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ringfence.commands import audit_options as asking
from ringfence.commands.options import Json


def stream(
    to: Annotated[str, typer.Option(help="http(s)://, otlp+http(s)://, syslog+tcp:// or syslog+tls:// address.")],
    name: Annotated[str, typer.Option(help="The feed's name; its cursor is kept under it.")] = "siem",
    form: Annotated[str, typer.Option(help="plain or ocsf.")] = "plain",
    is_once: Annotated[bool, typer.Option("--once", help="End once everything is delivered.")] = False,
    is_json: Json = False,
) -> None:
    """Feed a SIEM, every entry once and in order. A token for HTTP is read from RINGFENCE_STREAM_TOKEN."""
    import os
    import time

    from ringfence.errors import Mistake
    from ringfence.feeding import locked, make_feed
    from ringfence.session import open_session
    from ringfence_audit.collectors import InvalidCollector

    if form not in ("plain", "ocsf"):
        raise Mistake(f"{form[:40]!r} is no form", fix="Use plain or ocsf")
    with open_session(is_json=is_json) as session, locked(session.settings, name):
        try:
            token = os.environ.get("RINGFENCE_STREAM_TOKEN", "")
            feed = make_feed(session.store, name, to, form="ocsf" if form == "ocsf" else "plain", token=token)
        except InvalidCollector as error:
            raise Mistake(str(error), fix="See `ringfence audit stream --help`") from error
        while True:
            count = feed.drain()
            if count or is_once:
                session.output.record({"type": "stream", "name": name, "entries": count})
                session.output.line(f"{count} entries delivered to ", (to, "name"))
            if is_once:
                return
            time.sleep(1)


def lag(name: Annotated[str, typer.Argument(help="The feed's name.")] = "siem", is_json: Json = False) -> None:
    """Show how far a feed is behind."""
    from ringfence.session import open_session
    from ringfence_audit.stream import lag as behind

    with open_session(is_json=is_json) as session:
        found = session.read(lambda connection: behind(connection, name))
        oldest = None if found.oldest is None else found.oldest.isoformat()
        session.output.record({"type": "lag", "name": name, "entries": found.entries, "oldest": oldest})
        session.output.line(f"{found.entries} entries behind", f", the oldest of {oldest}" if oldest else "")


def report(
    as_of: Annotated[
        str | None, typer.Option(help="The moment: 2026-11-24 or 2026-11-24T10:00; now without it.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the page here, and its evidence beside it.")] = None,
    is_json: Json = False,
) -> None:
    """One page for an auditor: who could approve what, live grants, refusals, exceptions, how far evidence reaches."""
    from datetime import UTC, datetime

    from ringfence.reporting import report_as_of, write_report
    from ringfence.session import open_session

    moment = asking.moment(as_of) or datetime.now(UTC)
    with open_session(is_json=is_json) as session:
        page = report_as_of(session.settings, session.store, moment)
        if out is not None:
            done = write_report(session.store, page, moment, out, actor=session.person.principal)
            session.output.record({"type": "report", "path": str(out), "evidence": str(done)})
            session.output.line("wrote ", (str(out), "name"), " and its evidence ", (str(done), "name"))
            session.output.line(("check it: ", "dim"), f"ringfence-verify {done} --report {out} --key KEY")
            return
        session.output.record({"type": "report", "as_of": moment.isoformat(), "text": page})
        session.output.block(page)
