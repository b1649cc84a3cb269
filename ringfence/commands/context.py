"""`ringfence context`: whether commands work on this machine's state or against a server."""

from __future__ import annotations

from typing import Annotated

import typer

from ringfence.commands.options import Json

group = typer.Typer(no_args_is_help=True, help="Choose between this machine and a server.")


@group.command("list")
def list_(is_json: Json = False) -> None:
    """Show the contexts there are; the one in use is marked."""
    from ringfence.contexts import LOCAL, Contexts
    from ringfence.render import make_output
    from ringfence.settings import load_settings

    contexts = Contexts.read(load_settings().config)
    output = make_output(is_json=is_json)
    rows = [(LOCAL, "this machine", "")] + [(name, one.url, one.person) for name, one in contexts.known.items()]
    for name, url, person in rows:
        is_used = name == contexts.current
        output.record({"type": "context", "name": name, "url": url, "person": person, "is_used": is_used})
    output.table(
        ("", "CONTEXT", "WHERE", "AS"),
        [["*" if name == contexts.current else "", (name, "name"), url, person] for name, url, person in rows],
    )


@group.command()
def use(name: Annotated[str, typer.Argument(help="A context's name, or local.")]) -> None:
    """Work there from now on."""
    from ringfence.contexts import Contexts
    from ringfence.render import make_output
    from ringfence.settings import load_settings

    Contexts.read(load_settings().config).use(name)
    make_output().line(("using ", "good"), (name, "name"))
