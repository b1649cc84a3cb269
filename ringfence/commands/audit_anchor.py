"""`ringfence audit anchor` and `witness`: checkpoints go where this machine cannot take them back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ringfence.commands.options import Json


def anchor(
    is_proof_asked: Annotated[
        bool, typer.Option("--prove", help="Try to rewrite each anchor; it must be refused.")
    ] = False,
    is_json: Json = False,
) -> None:
    """Send the newest checkpoint to every anchor."""
    from dataclasses import asdict

    from ringfence.anchoring import anchor as send
    from ringfence.anchoring import load_sinks, probes
    from ringfence.errors import Mistake
    from ringfence.exits import Exit
    from ringfence.session import open_session

    with open_session(is_json=is_json) as session:
        sinks = load_sinks(session.settings)
        if not sinks:
            raise Mistake("no anchor is configured", fix=f"Name one in {session.settings.config / 'anchors.yaml'}")
        done = send(session.store, sinks)
        for item in done:
            session.output.record({"type": "anchor", **asdict(item)})
            said = item.problem or f"holds {item.size} entries"
            session.output.line((item.sink, "bad" if item.problem else "good"), "  ", said)
        is_held = not any(item.problem for item in done)
        for name, probe in probes(sinks) if is_proof_asked else ():
            session.output.record({"type": "probe", "sink": name, **asdict(probe)})
            session.output.line(
                ("refused  ", "good") if probe.is_refused else ("ALLOWED  ", "bad"),
                name,
                "  ",
                probe.name,
                (f"  {probe.detail}", "dim"),
            )
            is_held = is_held and probe.is_refused
    raise typer.Exit(int(Exit.FINISHED if is_held else Exit.UNAVAILABLE))


def witness(
    log: Annotated[list[str], typer.Option(help="The public key of a log to witness, or a file that holds it.")],
    key: Annotated[Path, typer.Option(help="The witness's own key; made where it is missing.")],
    state: Annotated[Path, typer.Option(help="A folder for what was cosigned.")],
    name: Annotated[str, typer.Option(help="The witness's name, such as witness.example.org/w1.")],
    listen: Annotated[str, typer.Option(help="Address and port.")] = "127.0.0.1:8087",
) -> None:
    """Be a witness for logs of others: cosign what grows, refuse what does not. Run it away from the service."""
    import time

    from ringfence.errors import Mistake
    from ringfence.verifying import read_key
    from ringfence_audit.keys import Signer
    from ringfence_audit.notes import VerifierKey
    from ringfence_audit.witness import Witness, server

    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit():
        raise Mistake(f"{listen[:60]!r} is not an address and port", fix="Write it as 127.0.0.1:8087")
    keys = [read_key(text) for text in log]
    signer = Signer.load_or_create(key, name)
    knows = Witness(signer, {item.name: item for item in keys}, state, clock=time.time)
    with server(knows, host.strip("[]"), int(port)) as http:
        typer.echo(f"listening on {http.server_address[0]!s}:{http.server_address[1]}")
        typer.echo(f"key {VerifierKey.of_witness(name, signer.public_key)}")
        http.serve_forever()
