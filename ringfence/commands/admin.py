"""`ringfence admin`: accounts, from the machine that holds the state folder. The console does the same for admins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.commands.options import Json

if TYPE_CHECKING:
    from ringfence.auth.people import PersonRecord
    from ringfence.render import Span
    from ringfence.session import Session
    from ringfence_audit.port import Transaction

group = typer.Typer(no_args_is_help=True, help="Make accounts and invite people.")

UrlOption = Annotated[str, typer.Option("--url", help="The address that browsers use.")]
LOCAL_URL = "http://127.0.0.1:8600"


@group.command()
def init(
    name: Annotated[str, typer.Option(help="The first admin's name; without it, yours on this machine.")] = "",
    url: UrlOption = LOCAL_URL,
    is_json: Json = False,
) -> None:
    """Make the first account and print its one-time link."""
    import asyncio

    from ringfence.auth import people
    from ringfence.auth.identity import GroupPlace, Membership
    from ringfence.auth.roles import EVERY_TEAM, Role
    from ringfence.directory import built_in_groups, current_user
    from ringfence.errors import Refused
    from ringfence.session import open_session

    with open_session(is_json=is_json, must_exist=False) as session:
        chosen = name or current_user().lower()

        def make(tx: Transaction) -> None:
            if people.has_people(tx.connection):
                raise Refused(
                    "there are accounts already", fix="`ringfence admin invite NAME` makes a new link for one of them"
                )
            people.create_person(tx, chosen, by="system:admin")
            roles = [Membership(EVERY_TEAM, role) for role in Role]
            groups = [GroupPlace(EVERY_TEAM, group) for group in sorted(built_in_groups())]
            people.set_places(tx, chosen, by="system:admin", roles=roles, groups=groups)

        asyncio.run(session.store.write(make))
        session.output.line(
            (chosen, "name"), " holds every role in every team; give others theirs, and take some away."
        )
        _invite(session, chosen, url)


@group.command()
def invite(
    name: Annotated[str, typer.Argument(help="An account's name.")], url: UrlOption = LOCAL_URL, is_json: Json = False
) -> None:
    """Print a new one-time link for an account; older ones end."""
    from ringfence.session import open_session

    with open_session(is_json=is_json) as session:
        _invite(session, name, url)


@group.command("people")
def list_people(is_json: Json = False) -> None:
    """Show the accounts there are."""
    from ringfence.auth.people import list_people as every
    from ringfence.session import open_session

    with open_session(is_json=is_json) as session:
        found = session.read(lambda connection: every(connection, limit=10_000))
        for one in found:
            session.output.record(
                {
                    "type": "person",
                    "name": one.name,
                    "kind": one.kind,
                    "is_disabled": one.is_disabled,
                    "roles": [f"{each.team}:{each.role.value}" for each in one.memberships],
                    "groups": [f"{place.team}:{place.name}" for place in one.groups],
                }
            )
        if not found:
            session.output.line("Nobody yet: `ringfence admin init` makes the first account.")
            return
        rows: list[list[Span]] = [
            [(one.name, "name"), "disabled" if one.is_disabled else one.kind, _roles_of(one)] for one in found
        ]
        session.output.table(("NAME", "KIND", "ROLES"), rows)


def _roles_of(one: PersonRecord) -> str:
    return ", ".join(f"{each.team}:{each.role.value}" for each in one.memberships)


def _invite(session: Session, name: str, url: str) -> None:
    from ringfence.api.house import Origin
    from ringfence.auth import people
    from ringfence.auth.sealing import Seal

    origin = Origin.parse(url)
    seal = Seal.load_or_create(session.settings.people_key)
    secret = session.write(lambda tx: people.invite(tx, name, by="system:admin", seal=seal))
    link = f"{origin.text}/welcome/{secret}"
    session.output.record({"type": "invitation", "person": name, "url": link})
    session.output.line("open once, within a day: ", (link, "name"))
