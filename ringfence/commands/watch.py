"""`ringfence runs watch`: see a run at work, whichever process moves it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.commands.options import Json, run_id

if TYPE_CHECKING:
    from ringfence.session import Session
    from ringfence_tools.calls import RunId


def watch(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="A run's id; without it, the newest that has not ended.")
    ] = None,
    is_json: Json = False,
) -> None:
    """Watch a run from its beginning to its end; Ctrl-C leaves it alone."""
    import asyncio

    from ringfence.session import open_session
    from ringfence.watching import newest_open

    with open_session(is_json=is_json) as session:
        chosen = session.read(newest_open) if run is None else run_id(run)
        code = asyncio.run(_watch(session, chosen))
    raise typer.Exit(code)


async def _watch(session: Session, run: RunId) -> int:
    import asyncio
    import signal

    from ringfence.driving import exit_of
    from ringfence.finishing import result_of, show_result
    from ringfence.live import LiveView
    from ringfence.watching import watch
    from ringfence_agents.runs import load

    watching = asyncio.ensure_future(watch(session.store, run, LiveView(session.output)))
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, watching.cancel)
    try:
        record = await watching
    except asyncio.CancelledError:
        record = await session.store.read(lambda connection: load(connection, run))
        session.output.line((f"You left; run {run} is {record.state.value} and goes on without you.", "dim"))
        return int(exit_of(record))
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    show_result(session.output, record, await result_of(session.store, record))
    return int(exit_of(record))
