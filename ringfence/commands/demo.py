"""`ringfence demo`: the whole story in under a minute, on a small project with a real failing test."""

from __future__ import annotations

from typing import Annotated

import typer

group = typer.Typer(invoke_without_command=True, help="See an AI developer at work inside the fence.")


@group.callback()
def demo(
    context: typer.Context,
    is_quick: Annotated[bool, typer.Option("--no-prompt", help="Leave out the prompt at the end.")] = False,
    sandbox: Annotated[
        str | None, typer.Option(help="kubernetes: play it on the cluster of RINGFENCE_KUBERNETES.")
    ] = None,
) -> None:
    """See an AI developer at work inside the fence."""
    if context.invoked_subcommand is not None:
        return
    import asyncio

    if sandbox is None:
        # Before the rooms are imported: who has no fence here is told at once, not after seconds.
        from ringfence_sandbox.local.trial import try_here

        asyncio.run(try_here())
    from ringfence.demo.story import tell

    raise typer.Exit(asyncio.run(tell(has_prompt=not is_quick, sandbox=sandbox)))


@group.command()
def seed() -> None:
    """Fill an empty state folder with teams, runs and cards to look at in the console."""
    import asyncio

    from ringfence.demo.seed import seed as fill
    from ringfence.render import make_output
    from ringfence.settings import load_settings

    settings = load_settings()
    asyncio.run(fill(settings))
    output = make_output()
    output.line(("filled ", "good"), (str(settings.home), "name"), " with the demo data set")
    output.line("Next: ", ("ringfence serve", "name"), ", and a one-time link for a person of it:")
    output.line("  ringfence admin invite ben", ("   a reviewer; also dana, cleo, ana, iris, omar, eve", "dim"))
