"""The command line: one surface of commands, one line of help each.

Importing this module imports typer and nothing heavier, so that `ringfence --help` and shell completion answer at
once; each command imports what it needs when it runs. The error boundary is in `main`: whatever a room raises reaches
a person as one line that says what to do, and a script as an exit code (`ringfence.exits`).
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ringfence.commands import (
    admin,
    audit,
    context,
    db,
    deliver,
    demo,
    doctor,
    grants,
    login,
    profile,
    review,
    run,
    runs,
    serve,
    stop,
    watch,
    worker,
)

app = typer.Typer(
    name="ringfence",
    help="Runs AI developers that cannot break things.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
runs.group.command()(run.resume)
runs.group.command()(watch.watch)
app.command()(run.run)
app.add_typer(runs.group, name="runs")
app.add_typer(review.group, name="review")
app.command()(deliver.deliver)
app.add_typer(audit.group, name="audit")
app.add_typer(profile.group, name="profile")
app.add_typer(grants.group, name="grants")
app.command()(stop.stop)
app.command()(worker.worker)
app.command()(serve.serve)
app.add_typer(admin.group, name="admin")
app.command()(login.login)
app.add_typer(context.group, name="context")
app.add_typer(db.group, name="db")
app.command()(doctor.doctor)
app.add_typer(demo.group, name="demo")


def _show_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        typer.echo(f"ringfence {version('ringfence')}")
        raise typer.Exit


@app.callback()
def root(
    is_version_asked: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Runs AI developers that cannot break things."""


def main() -> None:
    """Entry point of the `ringfence` script. Never returns: exits with a code of `ringfence.exits`."""
    from ringfence.boundary import run_at_boundary

    def work() -> None:
        code = app(prog_name="ringfence", standalone_mode=False)
        if isinstance(code, int):
            sys.exit(code)

    run_at_boundary(work)
