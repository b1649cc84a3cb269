"""Options and arguments that several commands share, so that they read and behave alike everywhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.errors import Mistake

if TYPE_CHECKING:
    from ringfence_tools.calls import EscalationId, RunId

Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, from `ringfence runs list`.")]
EscalationArgument = Annotated[str, typer.Argument(metavar="E-N", help="An escalation, such as E-12 or 12.")]
ReasonOption = Annotated[str, typer.Option("--reason", "-r", help="Why; it goes into the log.")]

_RUN = re.compile(r"[a-z][a-z0-9]{0,23}\Z")
_ESCALATION = re.compile(r"(?:[Ee]-)?([0-9]{1,18})\Z")


def escalation_id(text: str) -> EscalationId:
    """Raises `Mistake` for anything but `E-12` or `12`."""
    from ringfence_tools.calls import EscalationId

    match = _ESCALATION.match(text)
    if match is None:
        raise Mistake(
            f"{text[:60]!r} is not an escalation", fix="Name it as E-12 or 12; `ringfence review list` shows them"
        )
    return EscalationId(int(match.group(1)))


def run_id(text: str) -> RunId:
    """Raises `Mistake` for what cannot be a run's id."""
    from ringfence_tools.calls import RunId

    if not _RUN.match(text):
        raise Mistake(f"{text[:60]!r} is not a run's id", fix="`ringfence runs list` shows them")
    return RunId(text)
