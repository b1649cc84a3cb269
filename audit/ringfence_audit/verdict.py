"""What verification says: a grade of the evidence, whether the story in it is whole, and the first thing wrong."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ringfence_audit.counting import Finding
from ringfence_audit.events import JsonValue

NAMED = 20


class Grade(StrEnum):
    """How far the evidence can be believed, from least to most."""

    BROKEN = "broken"
    INTACT = "intact, not anchored"
    ANCHORED = "anchored"
    WITNESSED = "witnessed"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`position` is the first bad entry, None where the fault lies in no single one; `problem` says what is wrong.

    `findings` say where the story is not whole; `is_complete` is None where nobody looked (evidence alone).
    `open_calls` are intents of runs that go on, still without an outcome. `anchored` is how many entries the newest
    anchor that was compared covers, `covered` how many the newest checkpoint does.
    """

    grade: Grade
    size: int
    problem: str = ""
    position: int | None = None
    open_calls: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    is_complete: bool | None = None
    covered: int = 0
    anchored: int = 0
    pruned: int = 0
    absent_bodies: int = 0
    not_recomputable: int = 0
    """Intents whose action digest could not be recomputed, since their original arguments are gone or sealed."""

    @property
    def is_intact(self) -> bool:
        return self.grade is not Grade.BROKEN

    @property
    def is_good(self) -> bool:
        """Nothing is wrong: intact, and not found incomplete."""
        return self.is_intact and self.is_complete is not False

    @property
    def unanchored(self) -> int:
        """Entries that no anchor covers: that somebody with the log's key cut these off, or wrote them anew within the
        seconds before a checkpoint, would not be found."""
        return self.size - self.anchored

    @property
    def text(self) -> str:
        """One sentence for people."""
        where = f"entry {self.position}: " if self.position is not None else ""
        if not self.is_intact:
            return f"NOT INTACT: {where}{self.problem}"
        notes = [f"{self.grade.value}: {self.size} entries, {self.unanchored or 'none'} of them unanchored"]
        if self.is_complete:
            notes.append("complete")
        elif self.is_complete is False:
            more = f" (and {len(self.findings) - 1} more)" if len(self.findings) > 1 else ""
            notes.append(f"NOT COMPLETE: {where}{self.problem}{more}")
        counted = (
            (self.size - self.covered, "not covered by a checkpoint"),
            (len(self.open_calls), "intents without an outcome"),
            (self.pruned, "dropped by retention"),
            (self.absent_bodies, "large values absent"),
            (self.not_recomputable, "digests not recomputable"),
        )
        return "; ".join([*notes, *(f"{count} {what}" for count, what in counted if count)])

    def to_json(self) -> dict[str, JsonValue]:
        return {
            "type": "verdict",
            "text": self.text,
            "grade": self.grade.value,
            "size": self.size,
            "problem": self.problem,
            "position": self.position,
            "open_calls": list(self.open_calls[:NAMED]),
            "is_complete": self.is_complete,
            "findings": [{"position": item.position, "problem": item.problem} for item in self.findings[:NAMED]],
            "covered": self.covered,
            "anchored": self.anchored,
            "unanchored": self.unanchored,
            "pruned": self.pruned,
            "absent_bodies": self.absent_bodies,
            "not_recomputable": self.not_recomputable,
        }
