"""Profiles: what is published, looked at and compared."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from ringfence.api.catalogue import Listed, Shown
from ringfence.api.forms.shape import Answered, At, Given, Reason, Whole
from ringfence_tools.profile_changes import Change, Direction
from ringfence_tools.profile_versions import Draft, Publication, Version

PlaceWord = Literal["built in", "file", "published"]
ProfileText = Annotated[str, StringConstraints(min_length=1, max_length=128 << 10)]


class VersionOut(Answered):
    """One published version. It never changes; a run that began with it keeps it."""

    name: str
    number: int
    digest: str = Field(description="SHA-256 of what its runs are pinned to")
    description: str
    teams: list[str] = Field(description="Whom it is for; none is everybody")
    published_by: str
    published_at: At
    reason: str

    @classmethod
    def of(cls, found: Version) -> VersionOut:
        return cls(
            name=found.name,
            number=found.number,
            digest=found.digest,
            description=found.description,
            teams=list(found.teams),
            published_by=found.published_by,
            published_at=found.published_at,  # type: ignore[arg-type]  # `At` reads microseconds
            reason=found.reason,
        )


class ProfileLine(Answered):
    name: str
    place: PlaceWord
    version: int | None
    description: str
    problem: str
    teams: list[str]
    passed_over: PlaceWord | None = Field(description="Where the name stands too, and does not count")

    @classmethod
    def of(cls, one: Listed) -> ProfileLine:
        return cls(
            name=one.name,
            place=one.place,
            version=one.version,
            description=one.description,
            problem=one.problem,
            teams=list(one.teams),
            passed_over=one.passed_over,
        )


class ProfileOut(Answered):
    name: str
    version: int
    description: str
    policy_version: str
    words: list[str] = Field(description="What it allows, asks and forbids, in plain words")
    document: str = Field(description="YAML, with what it extends merged in")
    newest: int = Field(description="The version that new runs begin with")
    published: VersionOut | None

    @classmethod
    def of(cls, name: str, found: Shown) -> ProfileOut:
        return cls(
            name=name,
            version=found.profile.metadata.version,
            description=found.profile.description,
            policy_version=found.policy.version,
            words=list(found.words),
            document=found.document,
            newest=found.newest,
            published=None if found.published is None else VersionOut.of(found.published),
        )


class ProfileChangeOut(Answered):
    direction: Direction = Field(description="Whether agents may do more, less, or it merely reads otherwise")
    text: str

    @classmethod
    def of(cls, found: Change) -> ProfileChangeOut:
        return cls(direction=found.direction, text=found.text)


class ChangesOut(Answered):
    changes: list[ProfileChangeOut]


class ProfileTestOut(Answered):
    call: str
    expected: str
    actual: str
    is_passed: bool
    reason: str


class ProfileDraft(Given):
    text: ProfileText = Field(description="The profile as YAML")


class DraftOut(Answered):
    """What publishing this text would do."""

    name: str
    version: int
    digest: str
    since: int = Field(description="The newest published version now; 0 for none")
    tests: list[ProfileTestOut]
    changes: list[ProfileChangeOut] = Field(description="Against what the name means now")

    @classmethod
    def of(cls, found: Draft) -> DraftOut:
        return cls(
            name=found.profile.metadata.name,
            version=found.profile.metadata.version,
            digest=found.digest,
            since=found.since,
            tests=[
                ProfileTestOut(
                    call=one.call,
                    expected=one.expected,
                    actual=one.actual,
                    is_passed=one.is_passed,
                    reason=one.reason,
                )
                for one in found.tests
            ],
            changes=[ProfileChangeOut.of(one) for one in found.changes],
        )


class NewVersion(Given):
    text: ProfileText = Field(description="The profile as YAML; its own tests have to pass")
    reason: Reason
    since: Annotated[int, Field(ge=0, le=1_000_000), Whole] | None = Field(
        default=None, description="Refuse where another version than this is the newest by now"
    )


class Published(Answered):
    version: VersionOut
    is_new: bool = Field(description="False where exactly this had been published: nothing was done")

    @classmethod
    def of(cls, found: Publication) -> Published:
        return cls(version=VersionOut.of(found.version), is_new=found.is_new)


class UseOut(Answered):
    """Live runs of one team that keep one version."""

    team: str
    version: str
    is_published: bool
    runs: int
    since: At


class LiveRunOut(Answered):
    id: str
    team: str
    version: str
    state: str
    created_at: At


class UsesOut(Answered):
    teams: list[UseOut]
    newest: list[LiveRunOut] = Field(description="Some of the runs, newest first")


class TryCall(Given):
    call: Annotated[str, StringConstraints(min_length=1, max_length=8000)] = Field(
        description="`shell pytest -q`, `network GET https://example.org/`, `files write /etc/hosts` …"
    )
    version: Annotated[int, Field(ge=1, le=1_000_000), Whole] | None = None


class TryAnswer(Answered):
    effect: Literal["allow", "escalate", "forbid"]
    rules: list[str]
    reason: str
    instead: str
    any_of: list[str]
    all_of: list[str]
