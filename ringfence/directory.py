"""Who is at this terminal, and in which groups people may decide.

A personal machine needs no file: its user holds the group `owner` and every group that a built-in profile names. With
a people file, only whom it names may decide anything:

    people:
      - {user: ana, groups: [team-lead]}
      - {user: ben, groups: [team-lead, security]}
"""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ringfence.errors import Mistake
from ringfence_tools.people import Person
from ringfence_tools.profile import BUILT_IN, load_profile

_LIMIT_BYTES = 1 << 20


class _Named(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    user: str = Field(min_length=1, max_length=64)
    groups: list[str] = Field(max_length=200)


class _PeopleFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    people: list[_Named]


@dataclass(frozen=True, slots=True)
class LocalDirectory:
    """A `ringfence_tools.people.Directory`. `path` is read again at each question: a person removed stays removed."""

    path: Path
    owner: str

    def groups_of(self, name: str, *, team: str = "") -> frozenset[str]:
        """The file knows no teams: its groups count for every one.

        Raises `Mistake` where the file cannot be trusted or read: then nobody may decide.
        """
        if not self.path.exists():
            return built_in_groups() if name == self.owner else frozenset()
        entries = [entry for entry in _read(self.path).people if entry.user == name]
        return frozenset(group for entry in entries for group in entry.groups)

    def person(self, name: str) -> Person:
        return Person(name, self.groups_of(name))


def current_user() -> str:
    """The operating system's name for who runs this, by uid: the environment is not asked."""
    uid = os.getuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid-{uid}"


def built_in_groups() -> frozenset[str]:
    """`owner`, and every group that a built-in profile names."""
    groups = {"owner"}
    for name in BUILT_IN:
        profile = load_profile(name)
        groups.add(profile.metadata.owner)
        for rule in profile.rules:
            if rule.who is not None:
                groups.update(rule.who.any, rule.who.all)
    return frozenset(groups)


def _read(path: Path) -> _PeopleFile:
    fix = "The people file decides who may approve: mend it, or remove it on a machine of one person"
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            body = file.read(_LIMIT_BYTES + 1)
    except OSError as error:
        raise Mistake(f"{path} cannot be read ({error.strerror})", fix=fix) from error
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or status.st_uid not in (0, os.getuid()):
        raise Mistake(f"{path} can be changed by others", fix=f"chown it to you or root, and chmod go-w {path}")
    if len(body) > _LIMIT_BYTES:
        raise Mistake(f"{path} is larger than 1 MiB", fix=fix)
    try:
        return _PeopleFile.model_validate(yaml.safe_load(body))
    except yaml.YAMLError as error:
        raise Mistake(f"{path} is not YAML", fix=fix) from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise Mistake(f"{path}: {place}: {first['msg']}", fix=fix) from error
