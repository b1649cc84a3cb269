"""Where a reviewer's commands find their cards: this machine's state, or a server. The same words come from both."""

from __future__ import annotations

from asyncio import run
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from ringfence import remote, reviewing
from ringfence.contexts import Context, Contexts
from ringfence.render import Output, make_output
from ringfence.reviewing import read_findings
from ringfence.session import Session, now_us, open_session
from ringfence.settings import load_settings
from ringfence.voting import is_for
from ringfence_tools import escalations
from ringfence_tools.calls import EscalationId
from ringfence_tools.escalations import Escalation


class Desk(Protocol):
    """What `ringfence review` needs of either place."""

    @property
    def output(self) -> Output: ...

    def waiting(self) -> tuple[list[Escalation], list[Escalation]]:
        """What waits for this person, and all that waits; the first to expire in front."""

    def load(self, number: EscalationId) -> Escalation: ...

    def approve(self, found: Escalation, *, is_task: bool, seen: str, note: str) -> Escalation: ...

    def deny(self, found: Escalation, *, guidance: str, is_stop: bool) -> Escalation: ...

    def edit(self, found: Escalation, *, arguments: str, note: str) -> Escalation: ...

    def answer(self, found: Escalation, *, text: str) -> Escalation: ...


@dataclass(frozen=True, slots=True)
class LocalDesk:
    session: Session

    @property
    def output(self) -> Output:
        return self.session.output

    def waiting(self) -> tuple[list[Escalation], list[Escalation]]:
        every = list(self.session.read(lambda connection: escalations.open_ones(connection, now_us())))
        return [one for one in every if is_for(one, self.session.person)], every

    def load(self, number: EscalationId) -> Escalation:
        return reviewing.load(self.session, number)

    def approve(self, found: Escalation, *, is_task: bool, seen: str, note: str) -> Escalation:
        return run(reviewing.cast_approval(self.session, found, is_task=is_task, seen=seen, note=note))

    def deny(self, found: Escalation, *, guidance: str, is_stop: bool) -> Escalation:
        return run(reviewing.cast_denial(self.session, found, guidance=guidance, is_stop=is_stop))

    def edit(self, found: Escalation, *, arguments: str, note: str) -> Escalation:
        return run(reviewing.cast_edit(self.session, found, arguments_text=arguments, note=note))

    def answer(self, found: Escalation, *, text: str) -> Escalation:
        return run(reviewing.cast_answer(self.session, found, text=text))


@dataclass(frozen=True, slots=True)
class RemoteDesk:
    context: Context
    output: Output

    def waiting(self) -> tuple[list[Escalation], list[Escalation]]:
        return remote.waiting(self.context, is_every=False), remote.waiting(self.context, is_every=True)

    def load(self, number: EscalationId) -> Escalation:
        return remote.card(self.context, number)

    def approve(self, found: Escalation, *, is_task: bool, seen: str, note: str) -> Escalation:
        given = {
            "verdict": "approve",
            "digest": found.digest,
            "width": "task" if is_task else "once",
            "findings": sorted(read_findings(seen)),
            "note": note,
        }
        return remote.vote(self.context, found.id, given)

    def deny(self, found: Escalation, *, guidance: str, is_stop: bool) -> Escalation:
        return remote.vote(self.context, found.id, {"verdict": "deny", "guidance": guidance, "stop": is_stop})

    def edit(self, found: Escalation, *, arguments: str, note: str) -> Escalation:
        given = {"verdict": "edit", "digest": found.digest, "arguments": arguments, "note": note}
        return remote.vote(self.context, found.id, given)

    def answer(self, found: Escalation, *, text: str) -> Escalation:
        return remote.vote(self.context, found.id, {"verdict": "answer", "text": text})


@contextmanager
def open_desk(*, is_json: bool) -> Iterator[Desk]:
    """The desk of the context in use. Raises `Mistake`."""
    context = Contexts.read(load_settings().config).active()
    if context is not None:
        yield RemoteDesk(context, make_output(is_json=is_json))
        return
    with open_session(is_json=is_json) as session:
        yield LocalDesk(session)
