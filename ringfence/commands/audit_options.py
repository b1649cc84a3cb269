"""The options by which an audit question is asked, shared by every command that takes one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.errors import Mistake

if TYPE_CHECKING:
    from ringfence_audit.query import Filter

Words = Annotated[str | None, typer.Argument(help="Words that must all occur.")]
Run = Annotated[str | None, typer.Option(help="Entries of this run.")]
Task = Annotated[str | None, typer.Option(help="Entries of this task's runs.")]
Agent = Annotated[str | None, typer.Option(help="What this agent did.")]
Person = Annotated[str | None, typer.Option(help="What this person did or had done.")]
Tool = Annotated[str | None, typer.Option(help="Calls of this tool.")]
KindOption = Annotated[str | None, typer.Option("--kind", help="Such as call.intent or escalation.*")]
Decision = Annotated[str | None, typer.Option(help="allow, escalate or forbid.")]
Outcome = Annotated[str | None, typer.Option(help="Such as ok, failed or forbidden.")]
Host = Annotated[str | None, typer.Option(help="A host, such as *.example.org")]
PathOption = Annotated[str | None, typer.Option("--path", help="A path, such as /workspace/src/*")]
Rule = Annotated[str | None, typer.Option(help="A rule of a profile.")]
Grant = Annotated[str | None, typer.Option(help="Everything under this grant.")]
Approver = Annotated[str | None, typer.Option(help="What this person approved.")]
Since = Annotated[str | None, typer.Option(help="From this moment on: 2026-11-24 or 2026-11-24T10:00")]
Until = Annotated[str | None, typer.Option(help="Before this moment.")]
Refused = Annotated[bool, typer.Option("--refused", help="Only what was refused.")]


def build_filter(
    *,
    words: str | None = None,
    run: str | None = None,
    task: str | None = None,
    agent: str | None = None,
    person: str | None = None,
    tool: str | None = None,
    kind: str | None = None,
    decision: str | None = None,
    outcome: str | None = None,
    host: str | None = None,
    path: str | None = None,
    rule: str | None = None,
    grant: str | None = None,
    approver: str | None = None,
    since: str | None = None,
    until: str | None = None,
    is_refused: bool = False,
) -> Filter:
    """The question that was typed. People and agents may be named without their prefix. Raises `Mistake`."""
    from ringfence_audit.query import Filter

    return Filter(
        words=words,
        run=run,
        task=task,
        agent=_principal("agent", agent),
        person=_principal("person", person),
        tool=tool,
        kind=kind,
        decision=decision,
        outcome=outcome,
        host=host,
        path=path,
        rule=rule,
        grant=grant,
        approver=None if approver is None else approver.removeprefix("person:"),
        since=moment(since),
        until=moment(until),
        refused=is_refused,
    )


def _principal(kind: str, name: str | None) -> str | None:
    return name if name is None or ":" in name else f"{kind}:{name}"


def moment(text: str | None) -> datetime | None:
    """An ISO date or time; without a zone it is UTC. Raises `Mistake`."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise Mistake(f"{text[:40]!r} is not a time", fix="Write it as 2026-11-24 or 2026-11-24T10:00") from error
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
