"""`ringfence serve`: API and console for a team, with a worker beside them."""

from __future__ import annotations

from typing import Annotated

import typer


def serve(
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8600,
    url: Annotated[
        str | None, typer.Option(help="The address that browsers use; needed behind a TLS proxy, such as https://…")
    ] = None,
    proxies: Annotated[
        str, typer.Option("--proxy", help="Proxies whose word on a client's address is taken, comma-separated.")
    ] = "",
    has_no_worker: Annotated[bool, typer.Option("--no-worker", help="Only API and console: others move runs.")] = False,
) -> None:
    """Serve API and console, and move runs, until Ctrl-C."""
    from ringfence.api.serving import Address
    from ringfence.api.serving import serve as run
    from ringfence.auth.people import has_people
    from ringfence.session import open_session

    address = Address.of(host, port, url, proxies)
    with open_session(is_json=False, must_exist=False) as session:
        output = session.output
        output.line("console ", (address.origin.text, "name"))
        if not session.read(has_people):
            output.line(("Nobody has an account yet: ", "wait"), "run `ringfence admin init` to make the first.")
        run(session, address, has_worker=not has_no_worker)
