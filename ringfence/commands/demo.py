"""`ringfence demo`: the whole story in under a minute, on a small project with a real failing test."""

from __future__ import annotations

from typing import Annotated

import typer


def demo(
    sandbox: Annotated[
        str | None, typer.Option(help="kubernetes: play it on the cluster of RINGFENCE_KUBERNETES.")
    ] = None,
    is_quick: Annotated[bool, typer.Option("--no-prompt", help="Leave out the prompt at the end.")] = False,
) -> None:
    """See an AI developer at work inside the fence."""
    import asyncio

    from ringfence.demo.story import tell

    raise typer.Exit(asyncio.run(tell(has_prompt=not is_quick, sandbox=sandbox)))
