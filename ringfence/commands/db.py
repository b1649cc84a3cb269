"""`ringfence db`: the version of the tables, and bringing them to this release."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ringfence.commands.options import Json

group = typer.Typer(no_args_is_help=True, help="The tables of the database: which version they have, and upgrading.")


@group.command()
def current(is_json: Json = False) -> None:
    """Show the version of the tables, whether this release can work with them, and what weakens the server."""
    from ringfence.database.durability import weaknesses
    from ringfence.database.version import HEAD, Standing, standing, version_of
    from ringfence.local_store import open_tables
    from ringfence.render import make_output
    from ringfence.settings import load_settings

    settings = load_settings()
    output = make_output(is_json=is_json)
    if settings.database_url is None and not settings.database.exists():
        version, found, weak = None, Standing.EMPTY, []
    else:
        with open_tables(settings) as store:
            version, found = store.read_now(version_of), store.read_now(standing)
            weak = store.read_now(weaknesses)
    output.record(
        {"type": "database", "version": version, "standing": found.value, "release": HEAD, "weaknesses": list(weak)}
    )
    output.line(f"{version or 'no version'}  ({found.value}; this release has {HEAD})")
    for line in weak:
        output.line((line, "bad"))


@group.command()
def upgrade(is_json: Json = False) -> None:
    """Make the tables, or bring them to this release. Back up first; stop the workers of the older release."""
    from ringfence.database.upgrading import upgrade as bring_up
    from ringfence.local_store import open_tables
    from ringfence.render import make_output
    from ringfence.settings import load_settings

    output = make_output(is_json=is_json)
    with open_tables(load_settings()) as store:
        before, after = bring_up(store)
    output.record({"type": "database", "before": before, "version": after})
    output.line(f"the tables are at {after}" + ("" if before == after else f", from {before or 'nothing'}"))


@group.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="A new folder for the copy.")],
    is_json: Json = False,
) -> None:
    """Copy a live state folder, without its keys, and verify the copy's log."""
    from ringfence.database.backup import back_up
    from ringfence.exits import Exit
    from ringfence.render import make_output
    from ringfence.settings import load_settings

    output = make_output(is_json=is_json)
    verdict = back_up(load_settings(), folder.absolute())
    output.record({**verdict.to_json(), "type": "backup", "folder": str(folder)})
    output.line("copied to ", (str(folder), "name"), ", log ", (verdict.text, "good" if verdict.is_intact else "bad"))
    raise typer.Exit(int(Exit.FINISHED if verdict.is_intact else Exit.EVIDENCE))
