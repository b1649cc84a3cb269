"""A card at the terminal, and the keys that decide it.

Two keystrokes for a harmless card. Where findings stand, each must be opened before `a` and `g` work: the right
decision is to be the easy one, not the fast one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ringfence.asking import ask_until
from ringfence.render import Output
from ringfence.reviewing import cast_answer, cast_approval, cast_denial, cast_edit, edited_arguments, show_card
from ringfence.session import Session, now_us
from ringfence.voting import card_of
from ringfence_tools import escalations
from ringfence_tools.calls import GrantWidth
from ringfence_tools.card import Card
from ringfence_tools.errors import ToolsError
from ringfence_tools.escalations import Escalation, EscalationState

_HELP = (
    "a approve once · g approve for this task · e edit · d deny · D deny and stop the run · 1-9 open a finding · "
    "s show again · l leave it waiting"
)


@dataclass
class Reader:
    """One person reading one card: which findings they have opened."""

    card: Card
    widest_grant: GrantWidth = "once"
    opened: set[int] = field(default_factory=set)

    @property
    def unopened(self) -> tuple[int, ...]:
        return tuple(n for n in range(1, len(self.card.findings) + 1) if n not in self.opened)

    @property
    def approving(self) -> tuple[str, ...]:
        """The keys that approve: a grant for the task only where the card offers one."""
        return ("a", "g") if self.widest_grant != "once" else ("a",)

    @property
    def seen(self) -> str:
        return ",".join(str(number) for number in sorted(self.opened))


async def decide_here(session: Session, found: Escalation) -> Escalation:
    """Show the card and take keys until it is decided, here or elsewhere, expires, or the person leaves it."""
    output = session.output
    if found.kind == "question":
        return await _answer(session, found)
    reader = Reader(card_of(found), found.terms.widest_grant)
    show_card(output, found)

    async def is_over() -> bool:
        now = await session.store.read(lambda connection: escalations.get(connection, found.id))
        return not now.is_open(now_us())

    while True:
        key = await ask_until(f"E-{found.id} {_prompt(reader)} ", is_over)
        if key is None or key.strip() == "l":
            return await session.store.read(lambda connection: escalations.get(connection, found.id))
        try:
            after = await _press(session, found, reader, key.strip())
        except ToolsError as error:
            output.line((str(error), "bad"))
            continue
        if after is not None:
            output.line((f"E-{found.id} ", "name"), (_said(after), "good" if key.strip() in ("a", "g") else "bad"))
            return after


def _prompt(reader: Reader) -> str:
    if reader.unopened:
        return f"[{'/'.join(str(number) for number in reader.unopened)} open first, d, D, e, ?]"
    return f"[{', '.join(key for key in (*reader.approving, 'e', 'd', 'D', '?'))}]"


async def _press(session: Session, found: Escalation, reader: Reader, key: str) -> Escalation | None:
    """Carry out one key; None where the card is still to be decided."""
    output = session.output
    if key.isdigit():
        _open(output, reader, int(key))
        return None
    if key in ("a", "g") and reader.unopened:
        locked = ", ".join(str(number) for number in reader.unopened)
        output.line((f"locked: open {locked} first", "wait"))
        return None
    match key:
        case "a" | "g":
            return await cast_approval(session, found, is_task=key == "g", seen=reader.seen, note="")
        case "d" | "D":
            guidance = await ask_until("What should the agent do instead? (Enter for nothing) ", _never)
            return await cast_denial(session, found, guidance=guidance or "", is_stop=key == "D")
        case "e":
            return await cast_edit(session, found, arguments_text=edited_arguments(output, found), note="")
        case "s":
            show_card(output, found)
        case _:
            output.line((_HELP, "dim"))
    return None


def _open(output: Output, reader: Reader, number: int) -> None:
    if not 1 <= number <= len(reader.card.findings):
        output.line((f"there is no finding {number}", "dim"))
        return
    reader.opened.add(number)
    finding = reader.card.findings[number - 1]
    output.line((f"{number} {finding.code.value}  ", "bad"), finding.summary)
    for detail in finding.details:
        output.line("    ", detail)


async def _answer(session: Session, found: Escalation) -> Escalation:
    session.output.line(("The agent asks: ", "wait"), found.arguments)
    text = await ask_until("Your answer (Enter to leave it waiting): ", _never)
    if not text:
        return found
    return await cast_answer(session, found, text=text)


def _said(after: Escalation) -> str:
    return "has your vote and waits for others" if after.state is EscalationState.OPEN else after.state.value


async def _never() -> bool:
    return False
