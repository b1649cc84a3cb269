"""`ringfence grants`: what approvals opened, and how to close it again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.commands.options import Json, run_id

if TYPE_CHECKING:
    from ringfence.render import Span
    from ringfence_audit.events import JsonValue
    from ringfence_tools.grants import Grant

group = typer.Typer(no_args_is_help=True, help="Show and revoke what approvals opened.")


@group.command("list")
def list_(
    run: Annotated[str | None, typer.Option("--run", help="Only this run's grants.")] = None,
    is_every: Annotated[bool, typer.Option("--all", help="Also those that have ended.")] = False,
    is_json: Json = False,
) -> None:
    """Show the grants that are open now."""
    from ringfence.session import now_us, open_session
    from ringfence_tools import grants

    with open_session(is_json=is_json) as session:
        wanted = None if run is None else run_id(run)
        found = session.read(lambda connection: grants.every(connection, run=wanted))
        shown = [grant for grant in found if is_every or grant.is_live(now_us())]
        for grant in shown:
            session.output.record(_json(grant, now_us()))
        if not shown:
            session.output.line("No grant is open." if not is_every else "No grant was ever given.")
            return
        session.output.table(("GRANT", "RUN", "WIDTH", "ENDS", "BY", "OPENS"), [_row(grant) for grant in shown])


@group.command()
def revoke(
    grant: Annotated[str, typer.Argument(metavar="GRANT", help="A grant's id, from `ringfence grants list`.")],
    is_json: Json = False,
) -> None:
    """Close a grant now, on every layer."""
    from ringfence.session import open_session
    from ringfence_tools import grants
    from ringfence_tools.calls import GrantId

    with open_session(is_json=is_json) as session:
        session.write(lambda tx: grants.revoke(tx, GrantId(grant), by=session.person.principal))
        session.output.record({"type": "grant", "grant": grant, "state": "revoked"})
        session.output.line(("revoked ", "good"), (grant, "name"))


def _row(grant: Grant) -> list[Span]:
    from ringfence.render import span_of_time
    from ringfence.session import now_us

    opens = ", ".join(f"{access.family.value} {access.resource}" for access in grant.accesses)
    if grant.revoked_at is not None:
        ends: Span = ("revoked", "bad")
    elif not grant.is_live(now_us()):
        ends = ("ended", "dim")
    else:
        ends = (span_of_time((grant.expires_at - now_us()) / 1e6), "wait")
    return [(grant.id, "name"), grant.run, grant.width, ends, grant.given_by, opens]


def _json(grant: Grant, at_us: int) -> dict[str, JsonValue]:
    return {
        "type": "grant",
        "grant": grant.id,
        "run_id": grant.run,
        "call": grant.call,
        "tool": grant.tool,
        "width": grant.width,
        "uses_left": grant.uses_left,
        "expires_at_us": grant.expires_at,
        "state": "revoked" if grant.revoked_at is not None else "live" if grant.is_live(at_us) else "ended",
        "given_by": grant.given_by,
        "escalation": grant.escalation,
        "opens": [{"family": access.family.value, "resource": access.resource} for access in grant.accesses],
    }
