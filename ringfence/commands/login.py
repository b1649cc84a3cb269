"""`ringfence login`: get a token from a server, and work against it from then on."""

from __future__ import annotations

from typing import Annotated

import typer


def login(
    url: Annotated[str, typer.Argument(help="The server's address, such as https://ringfence.example.org")],
    person: Annotated[str, typer.Option("--name", help="Your name there; asked for without it.")] = "",
    context: Annotated[str, typer.Option(help="What to call it here; the host's name without it.")] = "",
    is_token_read: Annotated[bool, typer.Option("--token-stdin", help="Read a token from standard input.")] = False,
) -> None:
    """Log in at a server; commands then work there until `ringfence context use local`."""
    import socket
    import sys

    from pydantic import SecretStr

    from ringfence.api.origin import Origin
    from ringfence.contexts import Context, Contexts
    from ringfence.remote import ask
    from ringfence.render import make_output
    from ringfence.settings import load_settings

    origin = Origin.parse(url)
    if is_token_read:
        token = sys.stdin.readline().strip()
    else:
        name = person or typer.prompt("Name")
        password = typer.prompt("Password", hide_input=True)
        code = typer.prompt("Code from your app")
        label = f"ringfence login on {socket.gethostname()[:60]}"
        given = {"name": name, "password": password, "code": code, "label": label}
        token = str(ask(origin.text, "/login", body=given)["token"])
    found = ask(origin.text, "/me", token=token)
    kept = Context(url=origin.text, person=str(found["name"]), token=SecretStr(token))
    called = context or origin.host
    Contexts.read(load_settings().config).keep(called, kept)
    make_output().line(
        ("logged in ", "good"), f"as {kept.person} at {origin.text}; this is the context ", (called, "name")
    )
