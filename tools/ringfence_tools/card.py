"""The card: what a reviewer sees of one escalation. Pure; plain JSON in the table, safe text on a terminal.

The bytes under RUNS are those that the action digest covers. Everything else on the card says what they would touch,
why they were stopped, and what is odd about them; each finding locks approval until a person has opened it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from ringfence_audit.events import JsonValue
from ringfence_sandbox.contract import WORKSPACE, ChangedFile
from ringfence_tools.calls import Access, Decision, Family, Terms
from ringfence_tools.card_text import shorten, visible, visible_lines
from ringfence_tools.findings import Code, Evidence, Finding, age_words, findings
from ringfence_tools.shell_reading import ShellReading, read_shell

RUNS_LINES = 200
"""Lines of RUNS on the card; what is beyond is counted, and is a finding by its length."""
RUNS_CHARACTERS = 32_000
WORDS_LIMIT = 600
OPENS_LIMIT = 50


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What the gate knows of a call when it opens an escalation. Text of agents and repositories is hostile."""

    tool: str
    arguments: Mapping[str, JsonValue]
    accesses: tuple[Access, ...]
    decision: Decision
    sealed: Mapping[str, str] = field(default_factory=dict)
    digest: str = ""
    task: str = ""
    repository: str = ""
    commit: str = ""
    person: str = ""
    profile: str = ""
    agent_says: str = ""
    alike: int = 0
    alike_approved: int = 0
    credential_hosts: frozenset[str] | None = None
    """Hosts for which the proxy adds a credential; None where that is not known, and then nothing is claimed."""
    foreseen: tuple[str, ...] = ()
    """What the call would do outside the sandbox, looked up there; safe lines."""
    seen_hosts: frozenset[str] | None = None
    """Hosts that this team's runs have reached before; None where nobody has looked."""


@dataclass(frozen=True, slots=True)
class Card:
    """All lines are safe to show. `runs` are the lines of the exact text, `runs_bytes` its length in UTF-8."""

    headline: str
    needs: str
    runs: tuple[str, ...]
    runs_lines: int
    runs_bytes: int
    opens: tuple[str, ...]
    sends: str
    why: str
    task: str
    agent_says: str
    before: str
    digest: str
    grant: str
    """What approving for the task would open, or "" where only *once* is offered."""
    findings: tuple[Finding, ...]

    def to_json(self) -> dict[str, JsonValue]:
        """The form in which it is stored."""
        found: list[JsonValue] = [
            {"code": one.code.value, "summary": one.summary, "details": list(one.details)} for one in self.findings
        ]
        return {
            "headline": self.headline,
            "needs": self.needs,
            "runs": list(self.runs),
            "runs_lines": self.runs_lines,
            "runs_bytes": self.runs_bytes,
            "opens": list(self.opens),
            "sends": self.sends,
            "why": self.why,
            "task": self.task,
            "agent_says": self.agent_says,
            "before": self.before,
            "digest": self.digest,
            "grant": self.grant,
            "findings": found,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, JsonValue]) -> Card:
        """Undo `to_json`; what a column lacks is shown as missing rather than guessed."""
        found = _mappings(stored.get("findings"))
        return cls(
            headline=_line(stored, "headline"),
            needs=_line(stored, "needs"),
            runs=_strings(stored.get("runs")),
            runs_lines=_number(stored, "runs_lines"),
            runs_bytes=_number(stored, "runs_bytes"),
            opens=_strings(stored.get("opens")),
            sends=_line(stored, "sends"),
            why=_line(stored, "why"),
            task=_line(stored, "task"),
            agent_says=_line(stored, "agent_says"),
            before=_line(stored, "before"),
            digest=_line(stored, "digest"),
            grant=_line(stored, "grant"),
            findings=tuple(
                Finding(Code(_line(one, "code")), _line(one, "summary"), _strings(one.get("details"))) for one in found
            ),
        )


def build_card(facts: CardFacts) -> Card:
    """Never raises on hostile text; never believes what the agent says of its own call."""
    reading = _reading(facts)
    text = exact_text(facts.tool, facts.arguments)
    size_bytes = len(text.encode("utf-8", "surrogatepass"))
    lines, left_out = _runs(text)
    changed = [
        ChangedFile(str(PurePosixPath(path).relative_to(WORKSPACE)), "modified", sha256)
        for path, sha256 in facts.sealed.items()
        if PurePosixPath(path).is_relative_to(WORKSPACE)
    ]
    found = findings(Evidence(facts.arguments, facts.accesses, reading, changed, seen_hosts=facts.seen_hosts))
    terms = facts.decision.terms or Terms()
    return Card(
        headline=_headline(facts, reading),
        needs=needs_of(terms),
        runs=(*lines, *left_out),
        runs_lines=_line_count(text),
        runs_bytes=size_bytes,
        opens=_opened(facts),
        sends=_sends(facts.accesses),
        why=shorten(f"{', '.join(map(visible, facts.decision.rules))} ({visible(facts.profile)})", WORDS_LIMIT),
        task=_task(facts),
        agent_says=_said(facts.agent_says.strip()),
        before=f"{facts.alike} alike this month: {facts.alike_approved} approved" if facts.alike else "none alike",
        digest=facts.digest,
        grant="" if found or terms.widest_grant == "once" else _grant(facts.decision.escalating, terms),
        findings=found,
    )


def exact_text(tool: str, arguments: Mapping[str, JsonValue]) -> str:
    """What stands under RUNS: a command as it is, anything else as its canonical arguments, name by name."""
    command = arguments.get("command")
    others = {name: value for name, value in arguments.items() if name != "command"}
    if tool == "shell" and isinstance(command, str):
        return command
    body = others if command is None else dict(arguments)
    return f"{tool} " + json.dumps(body, ensure_ascii=False, sort_keys=True)


def needs_of(terms: Terms) -> str:
    """`1 owner`, `team-lead AND security`, `anyone`."""
    parts = [" AND ".join(terms.all_of)] if terms.all_of else []
    if terms.any_of:
        parts.append("1 " + " or ".join(terms.any_of))
    said = " AND ".join(parts) or "anyone"
    return said + (" · not the requester" if terms.four_eyes else "")


def render_text(card: Card, *, identity: str, expires_in_s: int, width: int = 100) -> str:
    """The card as plain text for a terminal of this width; every line of it is safe to show."""
    found = card.findings
    out = [f"{identity}  {card.headline}     needs {card.needs} · denies in {age_words(expires_in_s)}"]
    if found:
        which = "1 finding: open it (1)" if len(found) == 1 else f"{len(found)} findings: open each (1-{len(found)})"
        out.append(f"! {which} before [a] unlocks")
    out.append(f"RUNS (exact, {_count(card.runs_lines, 'line')}, {_count(card.runs_bytes, 'byte')})")
    for number, line in enumerate(card.runs, 1):
        out += _wrapped(f"{number:>2}| ", line, "  | ", width)
    for number, one in enumerate(found, 1):
        out += _wrapped(f"{number} {one.code.value:<11}", one.summary, " " * 13, width)
    for line in card.opens:
        out += _wrapped("OPENS   ", line, " " * 8, width)
    for name, line in (("SENDS", card.sends), ("WHY", card.why), ("TASK", card.task)):
        out += _wrapped(f"{name:<8}", line, " " * 8, width)
    out += _wrapped("AGENT SAYS (untrusted) ", f'"{card.agent_says}"', " " * 8, width)
    out.append(f"BEFORE  {card.before}")
    grant = f"  [g] {card.grant}" if card.grant else ""
    keys = "[d] deny  [D] deny and stop run  [e] edit  [a] locked   no grant offered"
    out += _wrapped("", keys if found else f"[a] once{grant}  [e] edit  [d] deny", "    ", width)
    return "\n".join(out)


def _wrapped(first: str, text: str, rest: str, width: int) -> list[str]:
    """Hard-wrapped, so that no part of a long line leaves the screen."""
    room = max(width - max(len(first), len(rest)), 20)
    pieces = [text[start : start + room] for start in range(0, len(text), room)] or [""]
    return [first + pieces[0], *(rest + piece for piece in pieces[1:])]


def _reading(facts: CardFacts) -> ShellReading | None:
    command = facts.arguments.get("command")
    return read_shell(command) if facts.tool == "shell" and isinstance(command, str) else None


def _headline(facts: CardFacts, reading: ShellReading | None) -> str:
    families = sorted({access.family.value.upper() for access in facts.decision.escalating}) or [facts.tool.upper()]
    if Family.NETWORK not in {access.family for access in facts.decision.escalating}:
        return " + ".join(map(visible, families))
    if any(access.attributes.get("sends") for access in facts.decision.escalating):
        return " + ".join(families) + " · UPLOAD"
    # What a script or an interpreter does with a host is not in the text.
    is_open = reading is not None and (not reading.is_parsed or reading.scripts or reading.shells_fed)
    return " + ".join(families) + (" · may send" if is_open else " · read only")


def _runs(text: str) -> tuple[list[str], list[str]]:
    """The safe lines of the text's beginning, and what to say of the rest. Bounded for a text of any size."""
    shown = "\n".join(text[: RUNS_CHARACTERS + 1].split("\n")[:RUNS_LINES])[:RUNS_CHARACTERS]
    lines = visible_lines(shown)
    rest = text[len(shown) :]
    if rest in ("", "\n"):
        return visible_lines(shown + rest), []
    return lines, [f"… {rest.count(chr(10))} more lines, {len(rest)} more characters that are not shown here"]


def _line_count(text: str) -> int:
    return max(text.count("\n") + (not text.endswith("\n")), 1)


def _said(text: str) -> str:
    """What a person, an agent or a repository says, bounded before and after it is made safe."""
    return shorten(visible(shorten(text, 2 * WORDS_LIMIT), is_exact=False), WORDS_LIMIT)


def _opened(facts: CardFacts) -> tuple[str, ...]:
    escalating = facts.decision.escalating
    lines = [_opens(access, facts.credential_hosts) for access in escalating[:OPENS_LIMIT]]
    more = len(escalating) - OPENS_LIMIT
    seen = tuple(shorten(line, WORDS_LIMIT) for line in facts.foreseen[:OPENS_LIMIT])
    return (*lines, f"… and {more} more", *seen) if more > 0 else (*lines, *seen)


def _opens(access: Access, credential_hosts: frozenset[str] | None) -> str:
    method = access.attributes.get("method", "")
    if access.family is Family.NETWORK:
        tunnel = " · unopened: may send anything to anyone there" if _is_tunnel(access) else ""
        credential = _credential(access, credential_hosts)
        said = f"{visible(access.resource)} {visible(str(method))}".strip()
        return shorten(f"{said}{credential}{tunnel}", WORDS_LIMIT)
    write = " (write)" if access.attributes.get("write") else ""
    return shorten(f"{access.family.value} {visible(access.resource[:WORDS_LIMIT])}{write}", WORDS_LIMIT)


def _credential(access: Access, credential_hosts: frozenset[str] | None) -> str:
    if credential_hosts is None:
        return ""
    has_one = access.resource.rpartition(":")[0].strip("[]") in credential_hosts
    return " · with a credential that the proxy adds" if has_one else " · no credential"


def _is_tunnel(access: Access) -> bool:
    return not access.resource.endswith(":80")


def _sends(accesses: Sequence[Access]) -> str:
    names = [access.resource for access in accesses if access.attributes.get("sends")]
    return shorten("to " + ", ".join(map(visible, names)), WORDS_LIMIT) if names else "nothing that the call names"


def _task(facts: CardFacts) -> str:
    where = f"{_said(facts.repository)}@{visible(facts.commit[:6])}" if facts.repository else "no repository"
    return f'"{_said(facts.task)}" · {where} · for {visible(facts.person)}'


def _grant(escalating: Sequence[Access], terms: Terms) -> str:
    what = shorten(", ".join(visible(access.resource) for access in escalating), 200)
    return f"{what}, this task, {age_words(terms.ttl_s)}"


def _mappings(value: JsonValue) -> list[Mapping[str, JsonValue]]:
    items = value if isinstance(value, Sequence) and not isinstance(value, str) else []
    return [item for item in items if isinstance(item, Mapping)]


def _strings(value: JsonValue) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, Sequence) and not isinstance(value, str) else ()


def _line(stored: Mapping[str, JsonValue], name: str) -> str:
    value = stored.get(name)
    return value if isinstance(value, str) else f"({name} is missing)"


def _number(stored: Mapping[str, JsonValue], name: str) -> int:
    value = stored.get(name)
    return value if isinstance(value, int) else 0


def _count(number: int, word: str) -> str:
    return f"{number} {word}" + ("" if number == 1 else "s")
