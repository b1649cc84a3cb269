"""The replayed model: answers from a transcript, against the real sandbox, gate and log.

It is handed the real results and stops, visibly, where they are not what its transcript expects. Where it stands in
the transcript is the bookmark that is stored with each answer, so that a run goes on after a crash or a vote from the
right line.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection

from ringfence_agents.collecting import seen
from ringfence_agents.conversation import Role, calls_of, rows_since
from ringfence_agents.errors import ReplayDiverged
from ringfence_agents.model import Answer, ModelRequest, OnDelta, Prices
from ringfence_agents.runs import load
from ringfence_agents.transcript import AnswerLine, CallLine, HeadLine, Transcript, misses, read_transcript, recorded
from ringfence_tools.calls import RunId
from ringfence_tools.ledger import calls_of_turn


class ReplayModel:
    """Implements `model.Model`. Whoever shows its words says that they are a recording (`is_replay`)."""

    is_replay = True
    window_tokens = 1_000_000
    max_output_tokens = 8_000
    prices = Prices()

    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript

    @classmethod
    def load(cls, path: Path) -> ReplayModel:
        """Raises `TranscriptInvalid`."""
        return cls(read_transcript(path))

    @property
    def note(self) -> str:
        """What to show before a replay starts."""
        head = self._transcript.head
        said = f"This replays a recorded model ({head.model}); sandbox, policy, people and log are real."
        return f"{said} {head.note}".strip()

    @property
    def name(self) -> str:
        return f"replay of {self._transcript.head.model}"

    async def answer(self, request: ModelRequest, on_delta: OnDelta) -> Answer:
        """The next line whose `when` holds. Raises `ReplayDiverged`."""
        start = int(request.bookmark) if request.bookmark.isdecimal() else 0
        lines = self._transcript.answers
        position = next(
            (at for at in range(start, len(lines)) if not misses(lines[at].when, request.last_results)), None
        )
        if position is None:
            raise ReplayDiverged(f"the transcript ends at line {start + 1}, and the run goes on (turn {request.turn})")
        line = lines[position]
        missing = misses(line.expect, request.last_results)
        if missing:
            raise ReplayDiverged(f"the replay differs from its transcript before line {position + 2}: {missing}")
        if line.content:
            on_delta(line.content)
        return line.answer(model=self.name, bookmark=str(position + 1))


def record(connection: Connection, run: RunId, *, note: str = "", is_exact: bool = False) -> Transcript:
    """A transcript of a run's stored exchanges, each line expecting what came back then.

    `is_exact` also expects every output to be the same to the byte; without it status and exit code count.
    """
    model = load(connection, run).model
    answers: list[AnswerLine] = []
    turn = 0
    for row in rows_since(connection, run, 0):
        if row.role is not Role.ASSISTANT:
            continue
        results = seen(calls_of_turn(connection, run, turn)) if turn else ()
        turn = row.turn
        answers.append(
            AnswerLine(
                content=row.text,
                tool_calls=tuple(
                    CallLine(id=call["id"], name=call["name"], arguments=call["arguments"]) for call in calls_of(row)
                ),
                expect=tuple(recorded(result, is_exact=is_exact) for result in results),
            )
        )
    return Transcript(head=HeadLine(kind="transcript", version=1, model=model, note=note), answers=tuple(answers))
