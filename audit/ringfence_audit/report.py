"""One page for the outside auditor, as of a moment: who could approve what, what is open, what went against the rule.

A pure fold over the entries up to that moment, so that whoever holds the same entries (an export) computes the same
page. What the log does not know is not on it: a person's rights are seen where they were changed, asked for or used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ringfence_audit.completeness import Completeness
from ringfence_audit.counting import Finding
from ringfence_audit.dropped import Dropped
from ringfence_audit.events import JsonValue, Kind
from ringfence_audit.facts import Entry, is_refused

_MOST = 15
"""Lines of one section; what is left out is counted."""
_NOTABLE: Mapping[str, str] = {
    Kind.KEY: "the signing key",
    Kind.HOLD: "a legal hold",
    Kind.PRUNE: "entries dropped",
    Kind.ERASURE: "a person's fields erased",
    Kind.GAP: "a gap reported",
}


@dataclass(frozen=True, slots=True)
class Reach:
    """How far the evidence reaches: entries as of the moment, covered by a checkpoint, and anchored elsewhere."""

    size: int
    covered: int
    anchored: int
    verdict: str
    checkpoint: str


@dataclass
class _Live:
    """A grant as it stands."""

    tool: str
    run: str
    given_by: str
    expires_at: int
    uses: int | None


@dataclass
class Report:
    """What the fold gathers. Feed it with `take`, then `lines`."""

    as_of: datetime
    entries: int = 0
    refused: int = 0
    asked: dict[int, Mapping[str, JsonValue]] = field(default_factory=dict)
    requesters: dict[int, str] = field(default_factory=dict)
    approvers: dict[str, set[str]] = field(default_factory=dict)
    places: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Person → the groups, as TEAM:GROUP, that they were given last."""
    rights: list[str] = field(default_factory=list)
    self_approvals: list[str] = field(default_factory=list)
    settled: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    grants: dict[str, _Live] = field(default_factory=dict)
    notable: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    story: Completeness = field(default_factory=Completeness)

    def take(self, entry: Entry) -> None:
        """The next entry, in order; what came after the moment is left out."""
        if entry.time > self.as_of:
            return
        self.entries += 1
        self.story.take(entry)
        if is_refused(entry):
            self._refusal(entry)
        match entry.kind:
            case Kind.ESCALATION:
                self._asked(entry)
            case Kind.VOTE:
                self._vote(entry)
            case Kind.SETTLED:
                self.settled[_text(entry.data.get("state"))] += 1
            case Kind.GRANT_GIVEN | Kind.GRANT_USED | Kind.GRANT_REVOKED:
                self._grant(entry)
            case Kind.LOGIN if _text(entry.data.get("what")).startswith(("person.", "team.", "group.")):
                self._right(entry)
            case Kind.OUTCOME if entry.data.get("status") == "unknown":
                self.unknown.append(f"entry {entry.position}: call {entry.call} ended unknown")
            case _ if entry.kind in _NOTABLE:
                what = _text(entry.data.get("action")) or _text(entry.data.get("reason"))
                self.notable.append(f"entry {entry.position}: {_NOTABLE[entry.kind]}  {what} by {entry.actor}".rstrip())

    def _right(self, entry: Entry) -> None:
        what, who = _text(entry.data.get("what")), _text(entry.data.get("person"))
        if what == "person.places":
            self.places[f"person:{who}"] = tuple(_text(group) for group in _list(entry.data.get("groups")))
        elif what == "person.disabled":
            self.places.pop(f"person:{who}", None)
        self.rights.append(f"entry {entry.position}: {what} {who or _text(entry.data.get('team'))} by {entry.actor}")

    def _refusal(self, entry: Entry) -> None:
        self.refused += 1
        decision = entry.data.get("decision")
        rules = decision.get("rules") if isinstance(decision, Mapping) else entry.data.get("rules")
        for rule in rules if isinstance(rules, Sequence) and not isinstance(rules, str) else ():
            self.rules[_text(rule)] += 1

    def _asked(self, entry: Entry) -> None:
        number, terms = entry.data.get("escalation"), entry.data.get("terms")
        if isinstance(number, int):
            self.asked[number] = terms if isinstance(terms, Mapping) else {}
            self.requesters[number] = entry.on_behalf_of

    def _vote(self, entry: Entry) -> None:
        number = entry.data.get("escalation")
        groups = entry.data.get("groups")
        held = self.approvers.setdefault(entry.actor, set())
        held.update(_text(group) for group in (groups if isinstance(groups, Sequence) else ()))
        is_own = isinstance(number, int) and self.requesters.get(number) == entry.actor
        if is_own and entry.data.get("verdict") == "approve":
            self.self_approvals.append(
                f"entry {entry.position}: {entry.actor} approved E-{number}, asked on their behalf"
            )

    def _grant(self, entry: Entry) -> None:
        name = _text(entry.data.get("grant"))
        if entry.kind == Kind.GRANT_GIVEN:
            uses, expires = entry.data.get("uses"), entry.data.get("expires_at")
            self.grants[name] = _Live(
                _text(entry.data.get("tool")),
                entry.run,
                entry.actor,
                expires if isinstance(expires, int) else 0,
                uses if isinstance(uses, int) else None,
            )
        elif entry.kind == Kind.GRANT_REVOKED:
            self.grants.pop(name, None)
        elif (live := self.grants.get(name)) is not None and live.uses is not None:
            live.uses -= 1

    def lines(self, reach: Reach) -> list[str]:
        """The page as plain text. Names are hostile: escape them before showing."""
        opened = self.story.finish()
        moment = int(self.as_of.timestamp() * 1_000_000)
        live = {
            name: grant
            for name, grant in self.grants.items()
            if grant.expires_at > moment and (grant.uses is None or grant.uses > 0)
        }
        groups = Counter(
            _text(group)
            for terms in self.asked.values()
            for name in ("any_of", "all_of")
            for group in _list(terms.get(name))
        )
        counted = ", ".join(f"{count} {state}" for state, count in sorted(self.settled.items()) if state)
        return [
            f"Audit report as of {self.as_of.isoformat()}",
            "",
            f"Evidence: {reach.verdict}",
            f"  {self.entries} of {reach.size} entries lie before this moment; a signed checkpoint covers "
            f"{reach.covered}, anchors elsewhere cover {reach.anchored}.",
            *_section(
                "Who could approve, by the groups that they held",
                [f"{who}: {', '.join(groups)}" for who, groups in sorted(self.places.items()) if groups],
            ),
            *_section("Groups that were asked", [f"{group}: {count} times" for group, count in groups.most_common()]),
            *_section(
                "People who decided, and the groups they did it for",
                [f"{who}: {', '.join(sorted(held)) or 'no group'}" for who, held in sorted(self.approvers.items())],
            ),
            *_section("Changes of people and rights", self.rights),
            *_section(f"Decisions: {counted or 'none'}", []),
            *_section("Self-approvals", self.self_approvals),
            *_section("Live grants", [_grant_line(name, grant) for name, grant in sorted(live.items())]),
            *_section(
                f"Refusals: {self.refused}", [f"rule {rule}: {count}" for rule, count in self.rules.most_common()]
            ),
            *_section("Exceptions", [*map(_finding, self.story.findings), *self.unknown, *self.notable]),
            *_section(f"Calls under way at the end: {len(opened)}", []),
            "",
            "Checkpoint:",
            *(f"  {line}" for line in reach.checkpoint.splitlines()),
        ]


def make_report(entries: Iterable[Entry], as_of: datetime, *, dropped: Iterable[Dropped] = ()) -> Report:
    """`dropped` is what retention kept of the entries that are not among `entries`; both in order."""
    report = Report(as_of)
    rows = iter(dropped)
    row = next(rows, None)
    for entry in entries:
        while row is not None and row.position < entry.position and entry.time <= as_of:
            report.story.take_dropped(row)
            row = next(rows, None)
        report.take(entry)
    return report


def _finding(finding: Finding) -> str:
    return str(finding)


def _grant_line(name: str, grant: _Live) -> str:
    uses = "any number of uses" if grant.uses is None else f"{grant.uses} uses"
    return f"{name}: {grant.tool} in {grant.run}, given by {grant.given_by}, {uses} left"


def _section(title: str, items: Sequence[str]) -> list[str]:
    shown = [f"  {item}" for item in items[:_MOST]]
    more = [f"  … and {len(items) - _MOST} more"] if len(items) > _MOST else []
    none = ["  none"] if not items and ":" not in title else []
    return ["", title, *shown, *more, *none]


def _text(value: JsonValue) -> str:
    return value if isinstance(value, str) else ""


def _list(value: JsonValue) -> Sequence[JsonValue]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()
