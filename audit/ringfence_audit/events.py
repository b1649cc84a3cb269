"""The words of the log: which kinds of entry there are, and the shape of an event before it becomes one.

On the path of a tool call every room describes what it is about to do, or has seen, as an `Event`; only the store
turns events into entries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

JsonValue: TypeAlias = "str | int | bool | None | Sequence[JsonValue] | Mapping[str, JsonValue]"
"""JSON without floats. Integers lie within ±2^53, keys are ASCII; anything else raises `InvalidEvent`."""

SYSTEM_STREAM = "system"


class Kind(StrEnum):
    """The kind of an entry. A new kind is a new promise: add it here and to the docs, never inline."""

    RUN_OPENED = "run.opened"
    RUN_STATE = "run.state"
    RUN_CLOSED = "run.closed"
    EXCHANGE = "model.exchange"
    COMPACTION = "model.compaction"
    INTENT = "call.intent"
    DECISION = "call.decision"
    OUTCOME = "call.outcome"
    ESCALATION = "escalation.opened"
    VOTE = "escalation.vote"
    SETTLED = "escalation.settled"
    GRANT_GIVEN = "grant.given"
    GRANT_USED = "grant.used"
    GRANT_REVOKED = "grant.revoked"
    SANDBOX = "sandbox.life"
    EGRESS_OPENED = "egress.opened"
    EGRESS_CLOSED = "egress.closed"
    EGRESS_REFUSED = "egress.refused"
    DELIVERY = "delivery"
    PROFILE = "profile.published"
    CONTROL = "control"
    QUERY = "audit.query"
    EXPORT = "audit.export"
    LOGIN = "person.login"
    KEY = "audit.key"
    GAP = "audit.gap"
    COUNT = "producer.count"
    HOLD = "audit.hold"
    PRUNE = "audit.prune"
    ERASURE = "audit.erasure"


class Personal(str):
    """A text about `subject` (a principal, such as `person:ana`): the log encrypts it under a key of theirs, so that it
    can be erased although entries never change."""

    subject: str

    def __new__(cls, subject: str, value: str) -> Personal:
        text = super().__new__(cls, value)
        text.subject = subject
        return text


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened or is about to happen, not yet an entry.

    `actor` is a principal (`person:ana`, `agent:RUN`, `system:worker-1`). `run` names the stream; events of no run go
    to the system stream. `call` is `RUN/TURN/INDEX` where one tool call is meant. `data` is JSON without floats and is
    redacted by the store before it is hashed.
    """

    kind: Kind
    actor: str
    data: Mapping[str, JsonValue] = field(default_factory=dict)
    run: str = SYSTEM_STREAM
    call: str = ""
    on_behalf_of: str = ""
