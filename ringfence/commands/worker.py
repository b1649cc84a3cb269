"""`ringfence worker`: a process that takes runs from the queue and moves them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.commands.options import Json

if TYPE_CHECKING:
    from ringfence.render import Output
    from ringfence_tools.progress import Progress, ProgressEvent


def worker(
    at_once: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Runs to drive at once; else as workers.yaml says.")
    ] = None,
    is_json: Json = False,
) -> None:
    """Take runs from the queue and move them, until SIGTERM or Ctrl-C; runs then go back into the queue."""
    import asyncio
    import signal

    from ringfence.session import open_session
    from ringfence.wiring import open_workshop
    from ringfence.working import work
    from ringfence.workplan import read_plan

    async def serve() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        async with open_workshop(session.settings, session.store, session.directory) as workshop:
            await work(workshop, stop=stop, plan=plan, progress=progress)

    with open_session(is_json=is_json, must_exist=False) as session:
        plan = read_plan(session.settings.config)
        if at_once is not None:
            plan = plan.model_copy(update={"at_once": at_once})
        progress = _moves(session.output)
        session.output.record({"type": "worker", "at_once": plan.at_once})
        session.output.line(f"working, {plan.at_once} runs at once; Ctrl-C ends it after the next step of each")
        asyncio.run(serve())
        session.output.line("drained")


def _moves(output: Output) -> Progress:
    """One line for each state that a run enters; what it thinks and does is in the log."""
    from ringfence.live import event_json
    from ringfence_tools.progress import RunMoved

    def tell(event: ProgressEvent) -> None:
        if isinstance(event, RunMoved):
            output.record(event_json(event))
            output.line((event.run, "name"), f" {event.state}", (f" {event.detail}"[:200], "dim"))

    return tell
