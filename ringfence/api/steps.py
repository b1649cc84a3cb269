"""A run as a timeline: what the agent thought, called, was told, and who decided what in between. Reads tables only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, select

from ringfence.patch_reading import PATCH_LIMIT_BYTES, FileChange, PatchRefused, read_patch
from ringfence.patch_rules import Finding, notable, refusals
from ringfence_agents.conversation import MessageRow, Role
from ringfence_agents.runs import RunRecord
from ringfence_agents.schema import messages
from ringfence_audit.events import JsonValue
from ringfence_tools import escalations, ledger
from ringfence_tools.calls import CallKey, EscalationId, RunId
from ringfence_tools.escalations import Escalation
from ringfence_tools.ledger import CallRow

TEXT_LIMIT = 20_000
"""Characters of one output that are answered; what lies beyond is counted."""
WINDOW = 600
"""Characters of a long output that a timeline shows of its beginning, and of its end."""


@dataclass(frozen=True, slots=True)
class Window:
    """A long output's beginning and end; `between` characters lie between them, none where `end` is empty."""

    beginning: str
    between: int
    end: str


@dataclass(frozen=True, slots=True)
class CallStep:
    row: CallRow
    escalation: Escalation | None

    @property
    def arguments(self) -> str:
        return self.row.arguments_text[:TEXT_LIMIT]

    @property
    def output(self) -> str:
        return "" if self.row.result is None else self.row.result.text[:TEXT_LIMIT]

    @property
    def left_out(self) -> int:
        """Characters of the output that `output` leaves out."""
        return 0 if self.row.result is None else max(len(self.row.result.text) - TEXT_LIMIT, 0)

    @property
    def window(self) -> Window:
        """The output as a timeline shows it. Hostile."""
        text = "" if self.row.result is None else self.row.result.text
        between = len(text) - 2 * WINDOW
        return Window(text, 0, "") if between <= 0 else Window(text[:WINDOW], between, text[-WINDOW:])

    @property
    def headline(self) -> str:
        """The call in one line: its command or path where it has one. Hostile."""
        try:
            given = json.loads(self.row.arguments_text)
        except (ValueError, RecursionError):
            return self.row.arguments_text[:400]
        if not isinstance(given, dict):
            return self.row.arguments_text[:400]
        main = next(
            (given[name] for name in ("command", "path", "question", "summary", "resource") if name in given), ""
        )
        return str(main)[:400] if main else json.dumps(given, ensure_ascii=False)[:400]


@dataclass(frozen=True, slots=True)
class Turn:
    """`said` are the messages of the turn that are not results of calls, in order."""

    number: int
    said: tuple[MessageRow, ...]
    calls: tuple[CallStep, ...]


def turns(connection: Connection, run: RunId, *, after: int = -1, limit: int = 50) -> tuple[Turn, ...]:
    """Turns behind `after`, in order. Turn 0 holds the task and the setup."""
    where = (messages.c.run == run) & (messages.c.turn > after) & (messages.c.turn <= after + limit)
    rows = connection.execute(select(messages).where(where).order_by(messages.c.seq)).all()
    said = [MessageRow(run, row.seq, row.turn, Role(row.role), json.loads(row.body)) for row in rows]
    made = ledger.calls_between(connection, run, after + 1, after + limit)
    named = sorted({row.escalation for row in made if row.escalation is not None})
    cards = {one.id: one for one in escalations.by_ids(connection, named)}
    numbers = sorted({row.turn for row in said} | {row.key.turn for row in made})
    return tuple(_turn(number, said, made, cards) for number in numbers)


def one_call(connection: Connection, key: CallKey) -> CallStep | None:
    """None where the run has no such call."""
    row = ledger.call(connection, key)
    if row is None:
        return None
    return CallStep(row, None if row.escalation is None else escalations.get(connection, row.escalation))


def last_turn(connection: Connection, run: RunId) -> int:
    query = select(messages.c.turn).where(messages.c.run == run).order_by(messages.c.seq.desc()).limit(1)
    found: int | None = connection.execute(query).scalar()
    return 0 if found is None else found


def _turn(
    number: int, said: Sequence[MessageRow], made: Sequence[CallRow], cards: Mapping[EscalationId, Escalation]
) -> Turn:
    held = tuple(
        CallStep(row, cards.get(row.escalation) if row.escalation is not None else None)
        for row in made
        if row.key.turn == number
    )
    spoken = tuple(
        row for row in said if row.turn == number and row.role not in (Role.TOOL, Role.SYSTEM, Role.COMPACTION)
    )
    return Turn(number, spoken, held)


@dataclass(frozen=True, slots=True)
class Deliverable:
    """A run's patch as it was read; `problem` where it cannot be."""

    data: bytes
    changes: tuple[FileChange, ...]
    notable: tuple[Finding, ...]
    problem: str = ""

    @property
    def added(self) -> int:
        return sum(change.added for change in self.changes)

    @property
    def removed(self) -> int:
        return sum(change.removed for change in self.changes)


def deliverable(run: RunRecord) -> Deliverable | None:
    """None where the run has left no patch. Reads a file: call it off the event loop."""
    path = patch_path(run.result)
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            data = file.read(PATCH_LIMIT_BYTES + 1)
    except OSError as error:
        return Deliverable(b"", (), (), f"the patch cannot be read ({error.strerror})")
    if not data:
        return None
    try:
        changes = read_patch(data)
    except PatchRefused as error:
        return Deliverable(data, (), (), str(error))
    refused = refusals(changes)
    problem = f"{refused[0].path}: {refused[0].reason}" if refused else ""
    return Deliverable(data, changes, notable(changes), problem)


def patch_path(result: Mapping[str, JsonValue]) -> Path | None:
    patch = result.get("patch")
    path = patch.get("path") if isinstance(patch, Mapping) else None
    return Path(path) if isinstance(path, str) and path else None


def tests_of(result: Mapping[str, JsonValue]) -> tuple[tuple[str, int | None], ...]:
    """Test commands that the run ran, with their exit codes."""
    found = result.get("tests")
    if not isinstance(found, Sequence) or isinstance(found, str):
        return ()
    pairs = []
    for one in found:
        if isinstance(one, Mapping):
            code = one.get("exit_code")
            pairs.append((str(one.get("command", "")), code if isinstance(code, int) else None))
    return tuple(pairs)
