"""Published profiles: each version is stored once, never changed, and known by the SHA-256 of its document.

The document is what a run of it is pinned to, with everything that it extends merged in, so that a run's profile digest
is the digest of the version that it began with. Publishing and its entry are one transaction. A version is never
removed or replaced; whoever wants an earlier one back publishes its text again under the next number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    PrimaryKeyConstraint,
    Row,
    Select,
    Table,
    Text,
    func,
    insert,
    select,
    tuple_,
)

from ringfence_audit.events import Event, Kind
from ringfence_audit.port import Transaction
from ringfence_audit.schema import metadata
from ringfence_tools.clock import micros
from ringfence_tools.errors import NotFound, ProfileInvalid, ProfileTestsFailed, VersionTaken
from ringfence_tools.policy import Policy
from ringfence_tools.profile import Profile, Published, load_profile, parse_profile, pin_text
from ringfence_tools.profile_changes import Change, changes
from ringfence_tools.profile_checks import TestOutcome, profile_tests

NAME_CHARS = 63
REASON_CHARS = 2_000
_TOLD_CHANGES = 50

profile_versions = Table(
    "profile_versions",
    metadata,
    Column("name", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("digest", Text, nullable=False),
    Column("document", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("teams", Text, nullable=False),
    Column("published_by", Text, nullable=False),
    Column("published_at", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    PrimaryKeyConstraint("name", "number"),
)


@dataclass(frozen=True, slots=True)
class Version:
    """A published version without its texts. `published_by` is a principal, `published_at` microseconds."""

    name: str
    number: int
    digest: str
    description: str
    teams: tuple[str, ...]
    published_by: str
    published_at: int
    reason: str


@dataclass(frozen=True, slots=True)
class Draft:
    """What would be published. `before` is what the name means now, `since` its newest published number (0: none)."""

    profile: Profile
    source: str
    document: str
    digest: str
    policy_version: str
    tests: tuple[TestOutcome, ...]
    before: Profile | None
    since: int
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Publication:
    """`is_new` is false where exactly this version had been published before: then nothing was done."""

    version: Version
    is_new: bool


_LINE: Select[tuple[object, ...]] = select(
    profile_versions.c.name,
    profile_versions.c.number,
    profile_versions.c.digest,
    profile_versions.c.description,
    profile_versions.c.teams,
    profile_versions.c.published_by,
    profile_versions.c.published_at,
    profile_versions.c.reason,
)


def published_in(connection: Connection) -> Published:
    """Looks published versions up for `load_profile` and its like. A document that is not what was published under its
    digest is refused (`ProfileInvalid`): nobody runs under a row that was changed."""

    def find(name: str, number: int | None) -> str | None:
        table = profile_versions
        query = select(table.c.number, table.c.digest, table.c.document).where(table.c.name == name)
        query = query.where(table.c.number == number) if number is not None else query.order_by(table.c.number.desc())
        row = connection.execute(query.limit(1)).first()
        if row is None:
            return None
        document: str = row.document
        if _digest(document) != row.digest:
            raise ProfileInvalid(
                name, [f"version {row.number} was changed in the database after it was published; it is not used"]
            )
        return document

    return find


def newest(connection: Connection) -> tuple[Version, ...]:
    """The newest version of every published name, by name."""
    table = profile_versions
    last = select(table.c.name, func.max(table.c.number)).group_by(table.c.name)
    query = _LINE.where(tuple_(table.c.name, table.c.number).in_(last)).order_by(table.c.name)
    return tuple(_version(row) for row in connection.execute(query))


def versions_of(connection: Connection, name: str, *, below: int | None = None, limit: int = 50) -> tuple[Version, ...]:
    """Newest first; `below` is the number of the last one of the page before."""
    query = _LINE.where(profile_versions.c.name == name)
    if below is not None:
        query = query.where(profile_versions.c.number < below)
    return tuple(
        _version(row) for row in connection.execute(query.order_by(profile_versions.c.number.desc()).limit(limit))
    )


def version_of(connection: Connection, name: str, number: int) -> Version:
    """Raises `NotFound`."""
    return _version(_row(connection, _LINE, name, number))


def source_of(connection: Connection, name: str, number: int) -> str:
    """The text as its author wrote it. Raises `NotFound`."""
    source: str = _row(connection, select(profile_versions.c.source), name, number).source
    return source


def draft(connection: Connection, source: bytes, *, search: Sequence[Path] = ()) -> Draft:
    """Read a profile as it would be published, run its tests, and compare it with what its name means now.

    Raises `ProfileInvalid`, `PolicyError`, and `VersionTaken` where the number cannot be its own. Tests that fail are
    in `tests`; only `publish` refuses them, so that they can be looked at beside everything else.
    """
    published = published_in(connection)
    document = pin_text(source, "the profile", search, published=published)
    profile = parse_profile(document.encode(), "the profile")
    name = profile.metadata.name
    if len(name) > NAME_CHARS:
        raise ProfileInvalid(name, [f"metadata.name: at most {NAME_CHARS} characters"])
    if pin_text(document.encode(), name) != document:
        raise ProfileInvalid(name, ["it does not read back as it was written; take unusual line breaks out of it"])
    policy = Policy.compile(profile)
    last = next(iter(versions_of(connection, name, limit=1)), None)
    before = _meaning(name, search, published)
    found = Draft(
        profile=profile,
        source=source.decode(),
        document=document,
        digest=_digest(document),
        policy_version=policy.version,
        tests=tuple(profile_tests(profile)),
        before=before,
        since=0 if last is None else last.number,
        changes=() if before is None else changes(before, profile),
    )
    _check_number(found, last)
    return found


def publish(tx: Transaction, draft: Draft, *, by: str, reason: str, since: int | None = None) -> Publication:
    """Store the version and its entry. `since`: the newest number that whoever publishes has compared with, where that
    was looked at earlier than the draft was made.

    Raises `ProfileTestsFailed`, and `VersionTaken` where another version was published meanwhile. Raises
    `ProfileInvalid` without a reason.
    """
    name, number = draft.profile.metadata.name, draft.profile.metadata.version
    failed = [test for test in draft.tests if not test.is_passed]
    if failed:
        said = [f"test `{one.call}` expects {one.expected}, and it is {one.actual} ({one.reason})" for one in failed]
        raise ProfileTestsFailed(name, said)
    if not reason.strip() or len(reason) > REASON_CHARS:
        raise ProfileInvalid(name, [f"say why it is published, in 1 to {REASON_CHARS} characters"])
    last = next(iter(versions_of(tx.connection, name, limit=1)), None)
    if last is not None and (last.number, last.digest) == (number, draft.digest):
        return Publication(last, is_new=False)
    _check_number(draft, last)
    seen = draft.since if since is None else since
    if seen != (0 if last is None else last.number):
        now = "nothing is published" if last is None else f"v{last.number} was published by {last.published_by}"
        raise VersionTaken(name, [f"{now} meanwhile; look at the changes again"])
    made = Version(
        name=name,
        number=number,
        digest=draft.digest,
        description=draft.profile.description,
        teams=tuple(draft.profile.teams),
        published_by=by,
        published_at=micros(tx.now),
        reason=reason.strip(),
    )
    tx.record(_entry(draft, made, last))
    tx.connection.execute(
        insert(profile_versions).values(
            name=made.name,
            number=made.number,
            digest=made.digest,
            document=draft.document,
            source=draft.source,
            description=made.description,
            teams=json.dumps(made.teams),
            published_by=made.published_by,
            published_at=made.published_at,
            reason=made.reason,
        )
    )
    return Publication(made, is_new=True)


def _entry(draft: Draft, made: Version, last: Version | None) -> Event:
    return Event(
        Kind.PROFILE,
        made.published_by,
        {
            "profile": made.name,
            "version": made.number,
            "digest": made.digest,
            "policy_version": draft.policy_version,
            "before": None if last is None else {"version": last.number, "digest": last.digest},
            "reason": made.reason,
            "tests": len(draft.tests),
            "teams": list(made.teams),
            "changes": [f"{one.direction.value}: {one.text}"[:300] for one in draft.changes[:_TOLD_CHANGES]],
            "changes_left_out": max(len(draft.changes) - _TOLD_CHANGES, 0),
        },
    )


def _check_number(draft: Draft, last: Version | None) -> None:
    """Above every published one; and above what the name means so far, unless it is that very text."""
    name, number = draft.profile.metadata.name, draft.profile.metadata.version
    if last is not None and (last.number, last.digest) == (number, draft.digest):
        return
    if last is not None and number <= last.number:
        raise VersionTaken(
            name, [f"v{last.number} is published; this is another text: write version: {last.number + 1} in it"]
        )
    before = draft.before
    if last is None and before is not None and number <= before.metadata.version and draft.changes:
        raise VersionTaken(
            name,
            [f"{before.title} says otherwise already; write version: {before.metadata.version + 1} in this one"],
        )


def _meaning(name: str, search: Sequence[Path], published: Published) -> Profile | None:
    """What the name means now; None where it means nothing, or nothing that can be read."""
    try:
        return load_profile(name, search, published=published)
    except ProfileInvalid:
        return None


def _row(connection: Connection, query: Select[tuple[object, ...]], name: str, number: int) -> Row[tuple[object, ...]]:
    where = (profile_versions.c.name == name) & (profile_versions.c.number == number)
    row = connection.execute(query.where(where)).first()
    if row is None:
        raise NotFound(f"profile {name} has no published version {number}")
    return row


def _version(row: Row[tuple[object, ...]]) -> Version:
    return Version(
        name=row.name,
        number=row.number,
        digest=row.digest,
        description=row.description,
        teams=tuple(json.loads(row.teams)),
        published_by=row.published_by,
        published_at=row.published_at,
        reason=row.reason,
    )


def _digest(document: str) -> str:
    return hashlib.sha256(document.encode()).hexdigest()
