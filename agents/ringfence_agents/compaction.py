"""Compaction: what of the conversation the model is still shown when its window would overflow.

Deterministic and without a model: old tool outputs are elided first, then the oldest turns are dropped whole and
listed in one message, at last the largest outputs of what remains are trimmed. A call is never separated from its
answer: an output is elided in place, a turn goes with all of both. The rows stay; only what is shown changes, and
that this happened is a row and an entry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ringfence_agents.conversation import MessageRow, Role, calls_of, message_tokens, render
from ringfence_agents.model import Message
from ringfence_audit.events import JsonValue

AIM_PERCENT = 65
"""How full the window's share is after compaction, so that it is not needed again at the next turn."""

PROTECTED_TURNS = 2
SUMMARY_LIMIT_CHARS = 6_000
_SMALL_CHARS = 200


@dataclass(frozen=True, slots=True)
class Compaction:
    """How rows are shown. `elided`: tool rows by seq; `dropped_through`: the last turn that is left out.

    `trim_chars` bounds every tool output and all arguments of the turns that remain; None leaves them whole.
    """

    elided: frozenset[int] = frozenset()
    dropped_through: int = 0
    trim_chars: int | None = None
    summary: str = ""

    def to_body(self) -> dict[str, JsonValue]:
        return {
            "elided": sorted(self.elided),
            "dropped_through": self.dropped_through,
            "trim_chars": self.trim_chars,
            "content": self.summary,
        }

    @classmethod
    def from_body(cls, body: Mapping[str, JsonValue]) -> Compaction:
        elided, dropped, trim = body.get("elided"), body.get("dropped_through"), body.get("trim_chars")
        return cls(
            frozenset(seq for seq in elided if isinstance(seq, int))
            if isinstance(elided, Sequence) and not isinstance(elided, str)
            else frozenset(),
            dropped if isinstance(dropped, int) else 0,
            trim if isinstance(trim, int) else None,
            str(body.get("content", "")),
        )


@dataclass
class View:
    """The rows of one run and how they are shown; grows as rows are added. Not shared between tasks."""

    rows: list[MessageRow] = field(default_factory=list)
    compaction: Compaction = field(default_factory=Compaction)
    _shown: list[Message] = field(default_factory=list)
    _tokens: int = 0

    def add(self, rows: Sequence[MessageRow]) -> None:
        for row in rows:
            self.rows.append(row)
            if row.role is Role.COMPACTION:
                self.compaction = Compaction.from_body(row.body)
                self._rebuild()
            else:
                self._show(row)

    @property
    def messages(self) -> tuple[Message, ...]:
        return tuple(self._shown)

    @property
    def tokens(self) -> int:
        """Estimated, from above."""
        return self._tokens

    @property
    def next_seq(self) -> int:
        return self.rows[-1].seq + 1 if self.rows else 0

    def _rebuild(self) -> None:
        self._shown, self._tokens = [], 0
        for row in self.rows:
            self._show(row)

    def _show(self, row: MessageRow) -> None:
        for message in _shown(row, self.compaction):
            self._shown.append(message)
            self._tokens += message_tokens(message)


def _shown(row: MessageRow, how: Compaction) -> tuple[Message, ...]:
    if row.role is Role.COMPACTION:
        return ()
    if row.turn == 0 or row.role is Role.PERSON:
        is_task = row.role is Role.USER and row.turn == 0 and row.seq == 1
        shown = render(row)
        return (shown, {"role": "user", "content": how.summary}) if is_task and how.summary else (shown,)
    if row.turn <= how.dropped_through:
        return ()
    if row.role is not Role.TOOL:
        return (render(row, arguments_limit_chars=how.trim_chars),)
    if row.seq in how.elided:
        text = f"[{len(row.text)} characters of output left out to save room; the call ended {row.body.get('status')}]"
        return (render(row, text=text),)
    return (render(row, text=_trimmed(row.text, how.trim_chars)),)


def _trimmed(text: str, limit_chars: int | None) -> str:
    if limit_chars is None or len(text) <= limit_chars:
        return text
    half = limit_chars // 2
    return f"{text[:half]}\n[{len(text) - 2 * half} characters left out to save room]\n{text[-half:]}"


def plan(view: View, limit_tokens: int) -> Compaction | None:
    """How to show the rows within the limit; None where they fit as they are shown now.

    The result may still be too large where the task itself is; the caller compares `tokens_under`.
    """
    if view.tokens <= limit_tokens:
        return None
    aim = limit_tokens * AIM_PERCENT // 100
    how = _elide(view, aim)
    if tokens_under(view, how) > aim:
        how = _drop(view, how, aim)
    trim = 16_000
    while tokens_under(view, how) > limit_tokens and trim >= 250:
        how = Compaction(how.elided, how.dropped_through, trim, how.summary)
        trim //= 2
    return how


def tokens_under(view: View, how: Compaction) -> int:
    """Estimated tokens of the rows shown that way."""
    return sum(message_tokens(message) for row in view.rows for message in _shown(row, how))


def _elide(view: View, aim: int) -> Compaction:
    last = view.rows[-1].turn
    elided = set(view.compaction.elided)
    tokens = view.tokens
    before = view.compaction
    for row in view.rows:
        if tokens <= aim:
            break
        is_old = before.dropped_through < row.turn <= last - PROTECTED_TURNS
        if row.role is Role.TOOL and is_old and len(row.text) > _SMALL_CHARS and row.seq not in elided:
            whole = message_tokens(_shown(row, before)[0])
            elided.add(row.seq)
            tokens -= whole - message_tokens(_shown(row, Compaction(frozenset({row.seq})))[0])
    return Compaction(frozenset(elided), before.dropped_through, before.trim_chars, before.summary)


def _drop(view: View, how: Compaction, aim: int) -> Compaction:
    last = view.rows[-1].turn
    tokens = tokens_under(view, how)
    through = how.dropped_through
    while tokens > aim and through < last - 1:
        through += 1
        rows = [row for row in view.rows if row.turn == through]
        tokens -= sum(message_tokens(message) for row in rows for message in _shown(row, how))
    if through == how.dropped_through:
        return how
    kept = frozenset(row.seq for row in view.rows if row.seq in how.elided and row.turn > through)
    limit_chars = min(SUMMARY_LIMIT_CHARS, aim // 2)
    return Compaction(kept, through, how.trim_chars, _summary(view.rows, through, limit_chars=limit_chars))


def _summary(rows: Sequence[MessageRow], through: int, *, limit_chars: int) -> str:
    """What was done in the turns left out, the latest kept where there is more than fits."""
    statuses = {row.body.get("call_id"): row.body.get("status") for row in rows if row.role is Role.TOOL}
    lines = []
    for row in rows:
        if row.role is not Role.ASSISTANT or not 0 < row.turn <= through:
            continue
        said = " ".join(row.text.split())[:160]
        if said:
            lines.append(f"{row.turn}: you said: {said}")
        lines.extend(
            f"{row.turn}: {call['name'][:40]} {' '.join(call['arguments'].split())[:160]} -> {statuses.get(call['id'])}"
            for call in calls_of(row)
        )
    text = "\n".join(lines)
    if len(text) > limit_chars:
        text = "…" + text[-limit_chars:]
    return f"[Turns 1 to {through} were left out to save room. What you did in them, by turn:]\n{text}"
