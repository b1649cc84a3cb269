"""Where `ringfence profile` finds profiles and publishes them: this machine's state, or a server. A file is a file in
either; what it extends is looked up where it would count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection

from ringfence import remote
from ringfence.api.catalogue import Catalogue, Listed, Place, in_files
from ringfence.auth.identity import Reach
from ringfence.contexts import Context, Contexts
from ringfence.errors import Mistake, Refused
from ringfence.profile_uses import LiveRun, Use, Uses, uses_of
from ringfence.session import Session, open_session
from ringfence.settings import Settings, load_settings
from ringfence_audit.events import JsonValue
from ringfence_tools import profile_versions
from ringfence_tools.clock import micros
from ringfence_tools.profile import pin_profile
from ringfence_tools.profile_changes import Change, Direction
from ringfence_tools.profile_checks import TestOutcome
from ringfence_tools.profile_model import Profile
from ringfence_tools.profile_versions import Draft, Publication, Version, published_in, versions_of

_EVERYWHERE = Reach(is_everywhere=True)


@dataclass(frozen=True, slots=True)
class Checked:
    """What publishing a text would do. `since` is the newest published number now, 0 for none."""

    name: str
    number: int
    since: int
    tests: tuple[TestOutcome, ...]
    changes: tuple[Change, ...]


class Shelf(Protocol):
    """What `ringfence profile` needs of either place. Whatever is not there raises `Mistake` or `ProfileInvalid`."""

    def listed(self) -> Sequence[Listed]: ...

    def document(self, wanted: str) -> str:
        """What a run of a name, a name with its version, or a file would be pinned to."""

    def versions(self, name: str) -> Sequence[Version]:
        """Newest first."""

    def uses(self, name: str) -> Uses: ...

    def check(self, source: bytes) -> Checked: ...

    def publish(self, source: bytes, reason: str) -> Publication: ...


@dataclass
class LocalShelf:
    """Opens the state when something is looked up in it; asking makes none. Used inside its `stack`."""

    settings: Settings
    is_json: bool
    stack: ExitStack
    _session: Session | None = field(default=None, init=False)

    def listed(self) -> Sequence[Listed]:
        if not self._has_state:
            return in_files(self.settings, self._published)
        return self._open().read(lambda c: Catalogue().listed(c, self.settings, _EVERYWHERE))

    def document(self, wanted: str) -> str:
        return pin_profile(wanted, self.settings.profile_search, published=self._published)

    def versions(self, name: str) -> Sequence[Version]:
        return self._open().read(lambda c: versions_of(c, name, limit=10_000))

    def uses(self, name: str) -> Uses:
        return self._open().read(lambda c: uses_of(c, _EVERYWHERE, name))

    def check(self, source: bytes) -> Checked:
        found = self._draft(source)
        return Checked(
            found.profile.metadata.name, found.profile.metadata.version, found.since, found.tests, found.changes
        )

    def publish(self, source: bytes, reason: str) -> Publication:
        session, found = self._open(must_exist=False), self._draft(source)
        _check_owner(session, found)
        by = session.person.principal
        return session.write(lambda tx: profile_versions.publish(tx, found, by=by, reason=reason))

    def _draft(self, source: bytes) -> Draft:
        search = self.settings.profile_search
        return self._open(must_exist=False).read(lambda c: profile_versions.draft(c, source, search=search))

    def _published(self, name: str, number: int | None) -> str | None:
        if not self._has_state:
            return None

        def find(connection: Connection) -> str | None:
            return published_in(connection)(name, number)

        return self._open().read(find)

    @property
    def _has_state(self) -> bool:
        return self.settings.database_url is not None or self.settings.database.exists()

    def _open(self, *, must_exist: bool = True) -> Session:
        if self._session is None:
            opening = open_session(is_json=self.is_json, must_exist=must_exist)
            self._session = self.stack.enter_context(opening)
        return self._session


def _check_owner(session: Session, found: Draft) -> None:
    """Where a people file says who decides, a profile is its owner's: the group that it names, and named so far."""
    if not session.settings.people_file.exists():
        return
    profiles: tuple[Profile, ...] = (found.profile,) if found.before is None else (found.profile, found.before)
    missing = sorted({profile.metadata.owner for profile in profiles} - session.person.groups)
    if missing:
        raise Refused(
            f"profile {found.profile.metadata.name} is of {', '.join(missing)}, and {session.person.name} is not",
            fix="Ask somebody of that group, or have the people file changed",
        )


@dataclass(frozen=True, slots=True)
class RemoteShelf:
    context: Context
    settings: Settings

    def listed(self) -> Sequence[Listed]:
        return [_listed(one) for one in _items(self._ask("/profiles"))]

    def document(self, wanted: str) -> str:
        return pin_profile(wanted, self.settings.profile_search, published=self._published)

    def versions(self, name: str) -> Sequence[Version]:
        found: list[Version] = []
        after: JsonValue = ""
        while after is not None:
            page = self._ask(f"/profiles/{name}/versions?limit=200" + (f"&after={after}" if after else ""))
            found += [_version(one) for one in _items(page)]
            after = page["next"]
        return found

    def uses(self, name: str) -> Uses:
        found = self._ask(f"/profiles/{name}/uses")
        return Uses(
            tuple(
                Use(
                    str(one["team"]),
                    str(one["version"]),
                    bool(one["is_published"]),
                    _int(one["runs"]),
                    _at(one["since"]),
                )
                for one in _items(found, "teams")
            ),
            tuple(
                LiveRun(
                    str(one["id"]), str(one["team"]), str(one["version"]), str(one["state"]), _at(one["created_at"])
                )
                for one in _items(found, "newest")
            ),
        )

    def check(self, source: bytes) -> Checked:
        found = self._ask("/profiles/check", {"text": source.decode()})
        tests = tuple(
            TestOutcome(str(one["call"]), str(one["expected"]), str(one["actual"]), str(one["reason"]))
            for one in _items(found, "tests")
        )
        changes = tuple(Change(Direction(str(one["direction"])), str(one["text"])) for one in _items(found, "changes"))
        return Checked(str(found["name"]), _int(found["version"]), _int(found["since"]), tests, changes)

    def publish(self, source: bytes, reason: str) -> Publication:
        found = self._ask("/profiles", {"text": source.decode(), "reason": reason})
        return Publication(_version(found["version"]), is_new=bool(found["is_new"]))

    def _published(self, name: str, number: int | None) -> str | None:
        """Also what is built in or lies in a file there: on a server its names count."""
        path = f"/profiles/{name}" if number is None else f"/profiles/{name}/versions/{number}"
        try:
            return str(self._ask(path)["document"])
        except Mistake:
            return None

    def _ask(self, path: str, body: object = None) -> remote.Json:
        return remote.ask(self.context.url, path, body=body, token=self.context.token.get_secret_value())


@contextmanager
def open_shelf(*, is_json: bool) -> Iterator[Shelf]:
    """The shelf of the context in use. Raises `Mistake`."""
    settings = load_settings()
    context = Contexts.read(settings.config).active()
    if context is not None:
        yield RemoteShelf(context, settings)
        return
    with ExitStack() as stack:
        yield LocalShelf(settings, is_json, stack)


def source_at(path: Path) -> bytes:
    """A profile's text from a file. Raises `Mistake`."""
    try:
        with path.open("rb") as file:
            found = file.read((128 << 10) + 1)
        found.decode()
    except OSError as error:
        raise Mistake(f"{path} cannot be read ({error.strerror})", fix="Name the profile's file") from error
    except UnicodeDecodeError as error:
        raise Mistake(f"{path} is not UTF-8", fix="Save it as UTF-8") from error
    return found


def _items(found: remote.Json, name: str = "items") -> list[Mapping[str, JsonValue]]:
    held = found[name]
    return [one for one in held if isinstance(one, Mapping)] if isinstance(held, list) else []


def _listed(one: Mapping[str, JsonValue]) -> Listed:
    places: dict[JsonValue, Place] = {"built in": "built in", "file": "file"}
    teams, version = one["teams"], one["version"]
    return Listed(
        name=str(one["name"]),
        place=places.get(one["place"], "published"),
        version=None if version is None else _int(version),
        description=str(one["description"]),
        problem=str(one["problem"]),
        teams=tuple(str(team) for team in teams) if isinstance(teams, list) else (),
        passed_over=None if one["passed_over"] is None else places.get(one["passed_over"], "published"),
    )


def _version(value: JsonValue) -> Version:
    assert isinstance(value, Mapping)  # noqa: S101 what our own server answers
    teams = value["teams"]
    return Version(
        name=str(value["name"]),
        number=_int(value["number"]),
        digest=str(value["digest"]),
        description=str(value["description"]),
        teams=tuple(str(team) for team in teams) if isinstance(teams, list) else (),
        published_by=str(value["published_by"]),
        published_at=_at(value["published_at"]),
        reason=str(value["reason"]),
    )


def _int(value: JsonValue) -> int:
    return int(str(value))


def _at(value: JsonValue) -> int:
    return micros(datetime.fromisoformat(str(value)))
