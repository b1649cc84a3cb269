"""`ringfence runs`: what runs are doing, and a hand on each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.commands.options import Json, ReasonOption, RunArgument, run_id
from ringfence.errors import Mistake

if TYPE_CHECKING:
    from collections.abc import Callable

    from ringfence.render import Span, Style
    from ringfence_agents.runs import RunRecord, RunState
    from ringfence_agents.standing import Standing
    from ringfence_audit.events import JsonValue
    from ringfence_audit.port import Transaction
    from ringfence_tools.budget import Unit, Usage

group = typer.Typer(no_args_is_help=True, help="List, watch, message, pause or resume runs.")


@group.command("list")
def list_(
    state: Annotated[str, typer.Option(help="Only runs in these states, such as parked,running.")] = "",
    team: Annotated[str, typer.Option(help="Only runs of this team.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 20,
    is_json: Json = False,
) -> None:
    """Show the latest runs, newest first, and why each stands where it stands."""
    from ringfence.session import now_us, open_session
    from ringfence.workplan import read_plan
    from ringfence_agents.runs import list_runs
    from ringfence_agents.standing import standings

    with open_session(is_json=is_json) as session:
        states = _states(state)
        limits = read_plan(session.settings.config).limits
        found = session.read(lambda connection: list_runs(connection, states=states, team=team, limit=limit))
        why = session.read(lambda connection: standings(connection, found, now_us(), limits))
        for run in found:
            session.output.record({**summary_json(run), **_standing_json(why[run.id])})
        if not found:
            session.output.line("No run is in these states." if state or team else "No run yet.")
            return
        columns = ("RUN", "STATE", "AGE", "TURNS", "COST", "TASK AND WHY")
        session.output.table(columns, [_row(run, why[run.id]) for run in found])


@group.command()
def message(
    run: RunArgument,
    text: Annotated[str, typer.Argument(help="What the agent should know.")],
    is_json: Json = False,
) -> None:
    """Tell the agent something; it reads it before it thinks next."""
    from ringfence_agents import control

    chosen = run_id(run)
    _ask(
        is_json,
        lambda tx, by: control.post_message(tx, chosen, by=by, text=text),
        {"type": "message", "run_id": chosen},
        "The agent will read it before it thinks next.",
    )


@group.command()
def pause(run: RunArgument, reason: ReasonOption = "asked at the terminal", is_json: Json = False) -> None:
    """Park a run until someone resumes it."""
    from ringfence_agents import control

    chosen = run_id(run)
    _ask(
        is_json,
        lambda tx, by: control.pause(tx, chosen, by=by, reason=reason),
        {"type": "pause", "run_id": chosen},
        f"Pausing. `ringfence runs resume {chosen}` goes on.",
    )


@group.command()
def cancel(run: RunArgument, reason: ReasonOption = "asked at the terminal", is_json: Json = False) -> None:
    """End a run for good."""
    from ringfence_agents import control

    chosen = run_id(run)
    _ask(
        is_json,
        lambda tx, by: control.cancel(tx, chosen, by=by, reason=reason),
        {"type": "cancel", "run_id": chosen},
        "Cancelling.",
    )


@group.command()
def budget(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="A run's id.")] = None,
    caps: Annotated[str, typer.Option("--set", help="New caps, such as usd=5,tool_calls=300,wall=4h.")] = "",
    team: Annotated[str, typer.Option(help="A team's budget of this month instead.")] = "",
    reason: ReasonOption = "asked at the terminal",
    is_json: Json = False,
) -> None:
    """Show a budget, or change it; runs that waited for it go on."""
    from ringfence.budgets import parse_caps
    from ringfence.session import open_session
    from ringfence_agents import control
    from ringfence_agents.runs import load
    from ringfence_tools.budget import run_scope, team_scope, usage

    if bool(run) == bool(team):
        raise Mistake("say whose budget", fix="Name one run, or give --team NAME")
    chosen = run_id(run) if run else None
    named = parse_caps(caps)

    def work(tx: Transaction) -> tuple[str, dict[Unit, Usage]]:
        if chosen is not None:
            load(tx.connection, chosen)
        scope = team_scope(team, tx.now) if chosen is None else run_scope(chosen)
        if named and chosen is None:
            control.change_team_budget(tx, team, named, by=session.person.principal, reason=reason)
        elif named and chosen is not None:
            control.change_budget(tx, chosen, named, by=session.person.principal, reason=reason)
        return scope, usage(tx.connection, scope)

    with open_session(is_json=is_json) as session:
        scope, held = session.write(work)
        for unit, one in held.items():
            used: dict[str, JsonValue] = {"cap": one.cap, "reserved": one.reserved, "spent": one.spent}
            session.output.record({"type": "budget", "scope": scope, "unit": unit.value, **used})
        if not held:
            session.output.line(f"{scope} has no budget; --set gives it one.")
            return
        rows = [[unit.value, str(one.cap), str(one.spent), str(one.reserved)] for unit, one in held.items()]
        session.output.line((scope, "name"))
        session.output.table(("UNIT", "CAP", "SPENT", "IN FLIGHT"), rows)


FromStep = Annotated[int | None, typer.Option("--from", min=0, help="A step (turn) of the run; else its latest.")]


@group.command()
def retry(
    run: RunArgument,
    step: FromStep = None,
    reason: ReasonOption = "asked at the terminal",
    is_json: Json = False,
) -> None:
    """Try a run that has ended again, from one of its steps, as a new run."""
    _branch(run, step, reason=reason, word="", is_retry=True, is_json=is_json)


@group.command()
def fork(
    run: RunArgument,
    step: FromStep = None,
    message: Annotated[str, typer.Option(help="What the new run's agent should know.")] = "",
    reason: ReasonOption = "asked at the terminal",
    is_json: Json = False,
) -> None:
    """Begin a new run with the files and the conversation of a step; the other goes on as it is."""
    _branch(run, step, reason=reason, word=message, is_retry=False, is_json=is_json)


def _branch(run: str, step: int | None, *, reason: str, word: str, is_retry: bool, is_json: bool) -> None:
    import asyncio

    from ringfence.branching import open_branch
    from ringfence.session import open_session

    source = run_id(run)
    with open_session(is_json=is_json) as session:
        made = asyncio.run(
            open_branch(
                session.store,
                session.settings.runs,
                source,
                step,
                by=session.person.principal,
                reason=reason,
                is_retry=is_retry,
                word=word,
            )
        )
        session.output.record({"type": "run", "run_id": made, "from": source})
        session.output.line("run ", (made, "name"), f" is in the queue; `ringfence runs resume {made}` drives it here")


def _ask(is_json: bool, act: Callable[[Transaction, str], None], record: dict[str, JsonValue], said: str) -> None:
    from ringfence.session import open_session

    with open_session(is_json=is_json) as session:
        session.write(lambda tx: act(tx, session.person.principal))
        session.output.record(record)
        session.output.line((said, "good"))


def _states(text: str) -> tuple[RunState, ...]:
    from ringfence_agents.runs import RunState

    known = {state.value: state for state in RunState}
    wanted = [word.strip() for word in text.split(",") if word.strip()]
    for word in wanted:
        if word not in known:
            raise Mistake(f"{word[:40]!r} is not a state", fix=f"Choose among {', '.join(known)}")
    return tuple(known[word] for word in wanted)


def _row(run: RunRecord, standing: Standing) -> list[Span]:
    from ringfence.render import money, span_of_time
    from ringfence.session import now_us
    from ringfence_tools.clock import micros

    age = span_of_time((now_us() - micros(run.created_at)) / 1e6)
    state = run.state.value + (f" ({run.waits_for.value})" if run.waits_for.value else "")
    return [
        (run.id, "name"),
        (state, style_of(run.state)),
        age,
        str(run.turn),
        money(run.cost_micro_usd),
        f"{run.task_text[:200]} — {standing.why[:300]}" if standing.why else run.task_text[:200],
    ]


def _standing_json(standing: Standing) -> dict[str, JsonValue]:
    return {"why": standing.why, "ahead": standing.ahead, "is_stuck": standing.is_stuck}


def style_of(state: RunState) -> Style:
    from ringfence_agents.runs import RunState

    if state is RunState.FINISHED:
        return "good"
    if state in (RunState.QUEUED, RunState.RUNNING):
        return "bold"
    return "wait" if state is RunState.PARKED else "bad"


def summary_json(run: RunRecord) -> dict[str, JsonValue]:
    return {
        "type": "run",
        "run_id": run.id,
        "state": run.state.value,
        "waits_for": run.waits_for.value,
        "detail": run.detail,
        "task": run.task_text,
        "repository": run.repository,
        "profile": run.profile,
        "model": run.model,
        "on_behalf_of": run.on_behalf_of,
        "turn": run.turn,
        "cost_micro_usd": run.cost_micro_usd,
        "input_tokens": run.input_tokens,
        "output_tokens": run.output_tokens,
        "created_at": run.created_at.isoformat(),
    }
