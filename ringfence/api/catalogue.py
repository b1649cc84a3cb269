"""Profiles as people see them: which there are, what each allows in plain words, and what would become of a call.

A profile that names teams is seen by those who read in one of them, and by who reads everywhere; to others there is no
such profile. One that cannot be read names no teams, so only who reads everywhere sees it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import yaml
from sqlalchemy import Connection

from ringfence.api.problems import Unseen
from ringfence.auth.identity import Reach
from ringfence.settings import Settings
from ringfence_tools.calls import Decision
from ringfence_tools.errors import NotFound, ProfileInvalid
from ringfence_tools.policy import Policy
from ringfence_tools.profile import BUILT_IN, Profile, Published, load_profile, parse_profile, pin_profile
from ringfence_tools.profile_changes import Change, changes
from ringfence_tools.profile_checks import accesses_of_words
from ringfence_tools.profile_versions import Version, newest, published_in, version_of, versions_of
from ringfence_tools.profile_words import explain

Place: TypeAlias = Literal["built in", "file", "published"]


@dataclass(frozen=True, slots=True)
class Listed:
    """`problem` says why a profile cannot be used; then it has no version. `passed_over` is where the name stands too
    without counting, since a published version does."""

    name: str
    place: Place
    version: int | None = None
    description: str = ""
    problem: str = ""
    teams: tuple[str, ...] = ()
    published: Version | None = None
    passed_over: Place | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """`document` is what a run would keep, as YAML; `newest` the number that new runs begin with."""

    profile: Profile
    policy: Policy
    document: str
    words: tuple[str, ...]
    place: Place
    newest: int
    published: Version | None


@dataclass
class Catalogue:
    """Keeps the list of what lies in files until one of them changes: reading a profile costs tens of milliseconds."""

    _stamp: tuple[object, ...] | None = None
    _files: tuple[Listed, ...] = ()

    def listed(self, connection: Connection, settings: Settings, reach: Reach) -> tuple[Listed, ...]:
        """Every profile that can be named and that the caller may know of, by name."""
        return tuple(one for one in self._every(connection, settings) if is_seen(one, reach))

    def shown(
        self, connection: Connection, settings: Settings, reach: Reach, name: str, number: int | None = None
    ) -> Shown:
        """One profile as it counts, or one of its published versions. Raises `Unseen` and `ProfileInvalid`."""
        line = self.seen(connection, settings, reach, name)
        published = line.published
        if number is not None and number != line.version:
            published = seen_version(connection, reach, name, number)
        number = published.number if number is None and published is not None else number
        wanted = name if number is None else f"{name}@{number}"
        text = pin_profile(wanted, settings.profile_search, published=published_in(connection))
        profile = parse_profile(text.encode(), name)
        return Shown(
            profile=profile,
            policy=Policy.compile(profile),
            document=as_yaml(text),
            words=tuple(explain(profile).splitlines()),
            place=line.place,
            newest=profile.metadata.version if line.version is None else line.version,
            published=published,
        )

    def seen(self, connection: Connection, settings: Settings, reach: Reach, name: str) -> Listed:
        """The line of a name. Raises `Unseen`."""
        for one in self.listed(connection, settings, reach):
            if one.name == name:
                return one
        raise Unseen("profile")

    def _every(self, connection: Connection, settings: Settings) -> tuple[Listed, ...]:
        versions = newest(connection)
        stamp = (
            tuple((one.name, one.digest) for one in versions),
            tuple(
                (str(path), status.st_mtime_ns, status.st_size)
                for folder in settings.profile_search
                for path in sorted(folder.glob("*.yaml"))
                for status in (path.stat(),)
            ),
        )
        if stamp != self._stamp:  # what a file extends may have been published
            self._files, self._stamp = in_files(settings, published_in(connection)), stamp
        lines = {one.name: one for one in self._files}
        for version in versions:
            below = lines.get(version.name)
            lines[version.name] = _of_version(version, None if below is None else below.place)
        return tuple(line for _, line in sorted(lines.items()))


def is_seen(one: Listed, reach: Reach) -> bool:
    return is_for(one.teams, reach) and (not one.problem or reach.is_everywhere)


def is_for(teams: Iterable[str], reach: Reach) -> bool:
    """Whether someone may know of what these teams may use; no teams are every team."""
    named = tuple(teams)
    return reach.is_everywhere or not named or any(team in reach for team in named)


def seen_version(connection: Connection, reach: Reach, name: str, number: int) -> Version:
    """Raises `Unseen`, also where that version was for other teams."""
    try:
        found = version_of(connection, name, number)
    except NotFound as error:
        raise Unseen("version of this profile") from error
    if not is_for(found.teams, reach):
        raise Unseen("version of this profile")
    return found


def seen_versions(
    connection: Connection, reach: Reach, name: str, *, below: int | None = None, limit: int = 50
) -> tuple[Version, ...]:
    """Published versions, newest first, without those that were for other teams."""
    found: list[Version] = []
    while len(found) < limit and (page := versions_of(connection, name, below=below, limit=limit)):
        found += [one for one in page if is_for(one.teams, reach)]
        below = page[-1].number
    return tuple(found[:limit])


def tried(shown: Shown, call: str) -> Decision:
    """What the profile says to a call in words, such as `network GET https://example.org/`. Raises `ProfileInvalid`."""
    return shown.policy.decide(call.split(" ", 1)[0], accesses_of_words(shown.profile.metadata.name, call))


def compared(before: Shown, after: Shown) -> tuple[Change, ...]:
    """What the second allows more, less, or puts otherwise."""
    return changes(before.profile, after.profile)


def as_yaml(document: str) -> str:
    """A pinned document as people read it."""
    text: str = yaml.safe_dump(json.loads(document), sort_keys=False, allow_unicode=False, width=100)
    return text


def in_files(settings: Settings, published: Published) -> tuple[Listed, ...]:
    """Every name that a file or Ringfence itself gives a meaning, whether or not something was published under it."""
    found: dict[str, Place] = dict.fromkeys(BUILT_IN, "built in")
    for folder in settings.profile_search:
        for path in sorted(folder.glob("*.yaml")):
            if "@" not in path.stem:
                found[path.stem] = "file"
    return tuple(_line(settings, name, place, published) for name, place in sorted(found.items()))


def _line(settings: Settings, name: str, place: Place, published: Published) -> Listed:
    try:
        profile = load_profile(name, settings.profile_search, published=published)
    except ProfileInvalid as error:
        return Listed(name, place, problem=str(error))
    return Listed(name, place, profile.metadata.version, profile.description, teams=tuple(profile.teams))


def _of_version(version: Version, below: Place | None) -> Listed:
    return Listed(
        version.name,
        "published",
        version.number,
        version.description,
        teams=version.teams,
        published=version,
        passed_over=below,
    )
