"""Whether the story that the entries tell is whole: the grade *complete*, as a pure fold over entries in order.

It holds entries against each other: an intent and its outcome, the bytes that people approved and the bytes that ran,
an approver and the groups that were asked, a grant and its uses, a producer's numbers and its signed count. What it
covers is what producers reported; what a producer never reported is not in any log. Hostile shapes give findings,
never errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from ringfence_audit.counting import Counting, Finding
from ringfence_audit.dropped import Dropped
from ringfence_audit.events import JsonValue, Kind
from ringfence_audit.facts import Entry

Recompute: TypeAlias = Callable[[Entry, Mapping[str, JsonValue]], str]
"""(an intent, its data with the original arguments) → the action digest that these make."""


@dataclass(slots=True)
class _Escalation:
    digest: JsonValue
    policy_version: JsonValue
    requester: str
    any_of: frozenset[str]
    all_of: frozenset[str]
    four_eyes: bool
    votes: dict[str, frozenset[str]] = field(default_factory=dict)
    is_approved: bool = False
    consumed_by: str = ""


@dataclass(slots=True)
class _Grant:
    expires_at: int
    uses: int | None
    is_revoked: bool = False


@dataclass(slots=True)
class _Intent:
    position: int
    digest: JsonValue


class Completeness:
    """Feed it every entry in order with `take` (`take_dropped` where its body is gone), then ask `finish`."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self._counting = Counting(self._find)
        self._open: dict[str, _Intent] = {}
        self._done: dict[str, JsonValue] = {}
        self._closed: set[str] = set()
        self._escalations: dict[int, _Escalation] = {}
        self._decided: dict[str, JsonValue] = {}
        self._grants: dict[str, _Grant] = {}

    def take(self, entry: Entry) -> None:
        """The next entry of the log."""
        self._counting.take(entry)
        match entry.kind:
            case Kind.INTENT:
                self._intent(entry)
            case Kind.OUTCOME:
                self._outcome(entry)
            case Kind.DECISION:
                self._decided[entry.call] = _policy(entry)
            case Kind.ESCALATION:
                self._escalation(entry)
            case Kind.VOTE:
                self._vote(entry)
            case Kind.SETTLED:
                self._settled(entry)
            case Kind.GRANT_GIVEN | Kind.GRANT_USED | Kind.GRANT_REVOKED:
                self._grant(entry)
            case Kind.EGRESS_OPENED:
                self._egress(entry)
            case Kind.RUN_CLOSED:
                self._run_closed(entry)
            case Kind.GAP:
                self._open.pop(entry.call, None)
            case _:
                pass

    def take_dropped(self, row: Dropped) -> None:
        """What is kept of the next entry."""
        self._counting.take_dropped(row)

    def finish(self) -> tuple[str, ...]:
        """Judge what can only be judged at the end. Returns the calls that are still under way."""
        self._counting.finish()
        self.findings.sort(key=lambda finding: finding.position)
        return tuple(self._open)

    def _find(self, position: int, problem: str) -> None:
        self.findings.append(Finding(position, problem))

    # -- calls ------------------------------------------------------------------------------------------------------

    def _intent(self, entry: Entry) -> None:
        digest, escalation = entry.data.get("digest"), entry.data.get("escalation")
        if entry.call in self._open:
            self._find(entry.position, f"call {entry.call} acts again, and its first intent has no outcome")
        self._open[entry.call] = _Intent(entry.position, digest)
        if isinstance(escalation, int):
            self._consume(entry, escalation, digest)
        for grant in _texts(entry.data.get("grants")):
            self._is_usable(entry, grant)
        decided = self._decided.pop(entry.call, None)
        if decided is not None and not isinstance(escalation, int) and decided != _policy(entry):
            self._find(entry.position, f"call {entry.call} acts under another policy than it was decided by")
        effect = _mapping(entry.data.get("decision")).get("effect")
        if effect == "forbid" or (effect == "escalate" and escalation is None and not entry.data.get("grants")):
            self._find(entry.position, f"call {entry.call} acts although the decision was to {effect}")

    def _outcome(self, entry: Entry) -> None:
        intent = self._open.pop(entry.call, None)
        if intent is None:
            return
        digest = entry.data.get("digest")
        if digest is not None and intent.digest is not None and digest != intent.digest:
            self._find(entry.position, f"call {entry.call} carried out other bytes than its intent announced")

    def _run_closed(self, entry: Entry) -> None:
        prefix = f"{entry.run}/"
        for call in [call for call in self._open if call.startswith(prefix)]:
            intent = self._open.pop(call)
            self._find(intent.position, f"call {call} has neither outcome nor gap, and its run is closed")

    # -- people -----------------------------------------------------------------------------------------------------

    def _escalation(self, entry: Entry) -> None:
        number, terms = entry.data.get("escalation"), _mapping(entry.data.get("terms"))
        if not isinstance(number, int):
            return self._find(entry.position, "an escalation without a number")
        self._escalations[number] = _Escalation(
            entry.data.get("digest"),
            _policy(entry),
            entry.on_behalf_of,
            frozenset(_texts(terms.get("any_of"))),
            frozenset(_texts(terms.get("all_of"))),
            terms.get("four_eyes") is True,
        )
        return None

    def _of(self, entry: Entry) -> _Escalation | None:
        number = entry.data.get("escalation")
        return self._escalations.get(number) if isinstance(number, int) else None

    def _vote(self, entry: Entry) -> None:
        asked = self._of(entry)
        if asked is None:
            return self._find(entry.position, "a vote on an escalation that was never opened")
        if entry.data.get("verdict") != "approve":
            return None
        if entry.data.get("digest") != asked.digest:
            return self._find(entry.position, f"{entry.actor} approved other bytes than were asked about")
        if asked.four_eyes and entry.actor == asked.requester:
            return self._find(entry.position, f"{entry.actor} approved what was asked on their own behalf")
        asked.votes[entry.actor] = frozenset(_texts(entry.data.get("groups")))
        return None

    def _settled(self, entry: Entry) -> None:
        if entry.data.get("state") != "approved":
            return
        asked = self._of(entry)
        if asked is None:
            self._find(entry.position, "an approval of an escalation that was never opened")
        elif entry.data.get("digest") != asked.digest:
            self._find(entry.position, "other bytes were approved than were asked about")
        elif not _is_satisfied(asked):
            self._find(entry.position, "it was approved by people who do not hold the groups that were asked")
        else:
            asked.is_approved = True

    def _consume(self, entry: Entry, number: int, digest: JsonValue) -> None:
        asked = self._escalations.get(number)
        if asked is None or not asked.is_approved:
            return self._find(entry.position, f"it acts on E-{number}, which nobody approved")
        if asked.digest != digest:
            return self._find(entry.position, f"it acts on other bytes than those that E-{number} approved")
        if asked.consumed_by:
            return self._find(entry.position, f"it acts on E-{number}, which {asked.consumed_by} has used already")
        asked.consumed_by = entry.call
        voters = {name.removeprefix("person:") for name in asked.votes}
        if not set(_texts(entry.data.get("approvers"))) <= voters:
            return self._find(entry.position, f"it names an approver who has not approved E-{number}")
        if _policy(entry) != asked.policy_version and self._decided.get(entry.call) != _policy(entry):
            return self._find(entry.position, f"it acts under another policy than E-{number} was asked under")
        return None

    # -- grants -----------------------------------------------------------------------------------------------------

    def _grant(self, entry: Entry) -> None:
        name = entry.data.get("grant")
        if not isinstance(name, str):
            return self._find(entry.position, "a grant without a name")
        if entry.kind == Kind.GRANT_GIVEN:
            uses, expires = entry.data.get("uses"), entry.data.get("expires_at")
            self._grants[name] = _Grant(_number(expires), uses if isinstance(uses, int) else None)
            return None
        known = self._grants.get(name)
        if known is None:
            return self._find(entry.position, f"grant {name[:60]} was never given")
        if entry.kind == Kind.GRANT_REVOKED:
            known.is_revoked = True
            return None
        self._is_usable(entry, name)
        if known.uses is not None:
            known.uses -= 1
            if known.uses < 0:
                return self._find(entry.position, f"grant {name[:60]} was used more often than it allowed")
        return None

    def _is_usable(self, entry: Entry, name: str) -> None:
        known = self._grants.get(name)
        if known is None:
            self._find(entry.position, f"it rests on grant {name[:60]}, which was never given")
        elif known.is_revoked:
            self._find(entry.position, f"it rests on grant {name[:60]}, which was revoked before")
        elif int(entry.time.timestamp() * 1_000_000) > known.expires_at:
            self._find(entry.position, f"it rests on grant {name[:60]}, which had expired")

    def _egress(self, entry: Entry) -> None:
        grants = _texts(entry.data.get("grants"))
        if entry.data.get("effect") == "forbid" or (entry.data.get("effect") == "escalate" and not grants):
            self._find(entry.position, "a connection was opened that policy did not allow")
        for grant in grants:
            self._is_usable(entry, grant)


def _is_satisfied(asked: _Escalation) -> bool:
    held = frozenset().union(*asked.votes.values()) if asked.votes else frozenset()
    return bool(asked.votes) and asked.all_of <= held and (not asked.any_of or bool(asked.any_of & held))


def _policy(entry: Entry) -> JsonValue:
    decision = entry.data.get("decision")
    return _mapping(decision).get("policy_version") if decision is not None else entry.data.get("policy_version")


def _mapping(value: JsonValue) -> Mapping[str, JsonValue]:
    return value if isinstance(value, Mapping) else {}


def _list(value: JsonValue) -> Sequence[JsonValue]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()


def _texts(value: JsonValue) -> list[str]:
    return [item for item in _list(value) if isinstance(item, str)]


def _number(value: JsonValue) -> int:
    return value if isinstance(value, int) else 0
