"""Profiles as people see them: which there are, what each allows in plain words, and what would become of a call."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

import yaml

from ringfence.api.problems import Unseen
from ringfence.settings import Settings
from ringfence_tools.calls import Decision
from ringfence_tools.errors import ProfileInvalid
from ringfence_tools.policy import Policy
from ringfence_tools.profile import BUILT_IN, Profile, load_profile, parse_profile, pin_profile
from ringfence_tools.profile_checks import accesses_of_words
from ringfence_tools.profile_words import diff, explain


@dataclass(frozen=True, slots=True)
class Listed:
    """`problem` says why a profile cannot be used; then it has no version."""

    name: str
    place: Literal["built in", "published"]
    version: int | None = None
    description: str = ""
    problem: str = ""
    teams: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Shown:
    """`document` is what a run would keep, as YAML."""

    profile: Profile
    policy: Policy
    document: str
    words: tuple[str, ...]


@dataclass
class Catalogue:
    """Keeps the list until a file of it changes: reading a profile costs tens of milliseconds."""

    _stamp: tuple[tuple[str, int, int], ...] | None = None
    _listed: tuple[Listed, ...] = ()

    def listed(self, settings: Settings) -> tuple[Listed, ...]:
        """Every profile that can be named, by name."""
        stamp = tuple(
            (str(path), status.st_mtime_ns, status.st_size)
            for folder in settings.profile_search
            for path in sorted(folder.glob("*.yaml"))
            for status in (path.stat(),)
        )
        if stamp != self._stamp:
            self._listed, self._stamp = listed(settings), stamp
        return self._listed


def listed(settings: Settings) -> tuple[Listed, ...]:
    """Every profile that can be named, by name."""
    found: dict[str, Literal["built in", "published"]] = dict.fromkeys(BUILT_IN, "built in")
    for folder in settings.profile_search:
        for path in sorted(folder.glob("*.yaml")):
            found[path.stem] = "published"
    return tuple(_line(settings, name, place) for name, place in sorted(found.items()))


def shown(settings: Settings, name: str) -> Shown:
    """Raises `Unseen` for a name that is not listed, and `ProfileInvalid`."""
    if name.partition("@")[0] not in {one.name for one in listed(settings)}:
        raise Unseen("profile")
    text = pin_profile(name, settings.profile_search)
    profile = parse_profile(text.encode(), name)
    document = yaml.safe_dump(json.loads(text), sort_keys=False, allow_unicode=False, width=100)
    return Shown(profile, Policy.compile(profile), document, tuple(explain(profile).splitlines()))


def tried(settings: Settings, name: str, call: str) -> Decision:
    """What the profile says to a call in words, such as `network GET https://example.org/`."""
    policy = shown(settings, name).policy
    return policy.decide(call.split(" ", 1)[0], accesses_of_words(name, call))


def compared(settings: Settings, before: str, after: str) -> tuple[str, ...]:
    """Lines in which the two differ."""
    return tuple(diff(shown(settings, before).profile, shown(settings, after).profile))


def _line(settings: Settings, name: str, place: Literal["built in", "published"]) -> Listed:
    try:
        profile = load_profile(name, settings.profile_search)
    except ProfileInvalid as error:
        return Listed(name, place, problem=str(error))
    return Listed(name, place, profile.metadata.version, profile.description, teams=tuple(profile.teams))
