"""People, teams, roles and groups: who there is and where they belong. Every change is an entry.

Also the directory that decisions are checked against: the groups that a person holds now.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from sqlalchemy import Connection, Row, delete, insert, select, update

from ringfence.auth import passwords
from ringfence.auth.errors import AuthError, LinkInvalid, PersonExists, PersonUnknown
from ringfence.auth.identity import GroupPlace, Identity, Membership, Reach
from ringfence.auth.roles import EVERY_TEAM, Permission, Role
from ringfence.auth.schema import memberships, people, person_groups, setup_links, teams, tokens, web_sessions
from ringfence.auth.sealing import Seal
from ringfence.auth.secret_values import fingerprint, new_secret
from ringfence_audit.events import Event, JsonValue, Kind
from ringfence_audit.port import Transaction
from ringfence_tools.clock import micros

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}\Z")
"""People, teams and groups are named in lower case, so that no two look alike."""
LINK_HOURS = 24
ALL_TEAMS = Reach(is_everywhere=True)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PersonRecord:
    name: str
    kind: Literal["person", "service"]
    display: str
    email: str
    has_password: bool
    issuer: str
    is_disabled: bool
    created_at: int
    memberships: tuple[Membership, ...]
    groups: tuple[GroupPlace, ...]


@dataclass(frozen=True, slots=True)
class Team:
    name: str
    title: str
    created_at: int


def check_name(name: str) -> str:
    """Raises `AuthError` for a name that could be mistaken for another."""
    if not NAME.match(name):
        raise AuthError(
            "a name has 1 to 63 lower-case letters, digits, dots, hyphens or underscores", fix="Choose another name"
        )
    return name


def create_person(
    tx: Transaction,
    name: str,
    *,
    by: str,
    display: str = "",
    email: str = "",
    kind: Literal["person", "service"] = "person",
    issuer: str = "",
    subject: str = "",
) -> None:
    """Raises `PersonExists` and `AuthError`."""
    check_name(name)
    if tx.connection.execute(select(people.c.name).where(people.c.name == name)).first() is not None:
        raise PersonExists(f"{name} exists already", fix="Choose another name")
    tx.connection.execute(
        insert(people).values(
            name=name,
            kind=kind,
            display=display or name,
            email=email,
            issuer=issuer,
            subject=subject,
            created_at=micros(tx.now),
        )
    )
    _record(tx, by, {"what": "person.created", "person": name, "kind": kind, "issuer": issuer})


def disable_person(tx: Transaction, name: str, *, by: str) -> None:
    """The account can do nothing any more: sessions and tokens end at once. Raises `PersonUnknown`."""
    _change(tx, name, disabled_at=micros(tx.now))
    end_everything(tx, name)
    _record(tx, by, {"what": "person.disabled", "person": name})


def end_everything(tx: Transaction, name: str) -> None:
    now = micros(tx.now)
    live = (web_sessions.c.person == name) & web_sessions.c.ended_at.is_(None)
    tx.connection.execute(update(web_sessions).where(live).values(ended_at=now))
    held = (tokens.c.person == name) & tokens.c.revoked_at.is_(None)
    tx.connection.execute(update(tokens).where(held).values(revoked_at=now))


def create_team(tx: Transaction, name: str, *, by: str, title: str = "") -> None:
    """Raises `PersonExists` and `AuthError`."""
    check_name(name)
    if tx.connection.execute(select(teams.c.name).where(teams.c.name == name)).first() is not None:
        raise PersonExists(f"the team {name} exists already", fix="Choose another name")
    tx.connection.execute(insert(teams).values(name=name, title=title or name, created_at=micros(tx.now)))
    _record(tx, by, {"what": "team.created", "team": name})


def set_places(
    tx: Transaction,
    name: str,
    *,
    by: str,
    roles: Iterable[Membership],
    groups: Iterable[GroupPlace],
    source: str = "local",
) -> None:
    """Replace all roles and groups that a person has from one source. Raises `PersonUnknown` and `AuthError`."""
    if tx.connection.execute(select(people.c.name).where(people.c.name == name)).first() is None:
        raise _unknown(name)
    wanted, held = sorted(set(roles), key=str), sorted(set(groups), key=str)
    _check_teams(tx.connection, {each.team for each in wanted} | {place.team for place in held})
    for table in (memberships, person_groups):
        tx.connection.execute(delete(table).where(table.c.person == name, table.c.source == source))
    for each in wanted:
        values = {"person": name, "team": each.team, "role": each.role.value, "source": source}
        tx.connection.execute(insert(memberships).values(**values))
    for place in held:
        values = {"person": name, "team": place.team, "name": check_name(place.name), "source": source}
        tx.connection.execute(insert(person_groups).values(**values))
    data: dict[str, JsonValue] = {
        "what": "person.places",
        "person": name,
        "source": source,
        "roles": [f"{each.team}:{each.role.value}" for each in wanted],
        "groups": [f"{place.team}:{place.name}" for place in held],
    }
    _record(tx, by, data)


def invite(tx: Transaction, name: str, *, by: str, seal: Seal) -> str:
    """A one-time secret with which the person chooses a password and enrols a second factor; older ones end.

    Raises `PersonUnknown`, and `AuthError` for a closed account.
    """
    row = tx.connection.execute(select(people.c.kind, people.c.disabled_at).where(people.c.name == name)).first()
    if row is None or row.kind != "person":
        raise _unknown(name)
    if row.disabled_at is not None:
        raise AuthError(f"the account {name} is closed", fix="Make another account")
    tx.connection.execute(delete(setup_links).where(setup_links.c.person == name))
    secret = new_secret()
    expires_at = micros(tx.now) + LINK_HOURS * 3600 * 1_000_000
    tx.connection.execute(
        insert(setup_links).values(
            secret_sha256=fingerprint(secret),
            person=name,
            totp_seed=seal.close(passwords.new_seed(), name),
            expires_at=expires_at,
        )
    )
    _record(tx, by, {"what": "person.invited", "person": name, "expires_at": expires_at})
    return secret


@dataclass(frozen=True, slots=True)
class SetupLink:
    """`sealed_seed` opens with the seal that the link was made with."""

    person: str
    sealed_seed: str


def setup_link(connection: Connection, secret: str, now_us: int) -> SetupLink:
    """What a one-time link is for. Raises `LinkInvalid`."""
    query = select(setup_links).join(people, people.c.name == setup_links.c.person)
    is_it = (setup_links.c.secret_sha256 == fingerprint(secret)) & people.c.disabled_at.is_(None)
    row = connection.execute(query.where(is_it)).first()
    if row is None or row.used_at is not None or row.expires_at <= now_us:
        raise LinkInvalid
    return SetupLink(row.person, row.totp_seed)


def finish_setup(tx: Transaction, secret: str, *, password_hash: str, step: int) -> str:
    """Use the link up: the account has this password and the link's TOTP seed, and every session ends.

    `step` is the time step of the code that proved the enrolment. Raises `LinkInvalid`.
    """
    link = setup_link(tx.connection, secret, micros(tx.now))
    used = update(setup_links).where(
        setup_links.c.secret_sha256 == fingerprint(secret), setup_links.c.used_at.is_(None)
    )
    if not tx.connection.execute(used.values(used_at=micros(tx.now))).rowcount:
        raise LinkInvalid
    _change(tx, link.person, password=password_hash, totp_seed=link.sealed_seed, totp_step=step)
    end_everything(tx, link.person)
    _record(tx, f"person:{link.person}", {"what": "person.enrolled", "person": link.person})
    return link.person


def person_record(connection: Connection, name: str) -> PersonRecord:
    """Raises `PersonUnknown`."""
    row = connection.execute(select(people).where(people.c.name == name)).first()
    if row is None:
        raise _unknown(name)
    return _person(connection, row)


def list_people(connection: Connection, *, after: str = "", limit: int = 50) -> tuple[PersonRecord, ...]:
    """By name."""
    query = select(people).where(people.c.name > after).order_by(people.c.name).limit(limit)
    return _persons(connection, connection.execute(query).all())


def list_teams(
    connection: Connection, *, reach: Reach = ALL_TEAMS, after: str = "", limit: int = 50
) -> tuple[Team, ...]:
    """Those of the reach, by name."""
    query = select(teams).where(teams.c.name > after).order_by(teams.c.name).limit(limit)
    if not reach.is_everywhere:
        query = query.where(teams.c.name.in_(sorted(reach.teams)))
    return tuple(Team(row.name, row.title, row.created_at) for row in connection.execute(query))


def has_people(connection: Connection) -> bool:
    return connection.execute(select(people.c.name).limit(1)).first() is not None


def identity_of(
    connection: Connection,
    name: str,
    *,
    scopes: frozenset[Permission] | None = None,
    token: str = "",
    how: str = "session",
) -> Identity | None:
    """The person as they stand now; None where the account is gone or disabled."""
    row = connection.execute(select(people).where(people.c.name == name)).first()
    if row is None or row.disabled_at is not None:
        return None
    record = _person(connection, row)
    return Identity(
        name=name,
        display=record.display,
        is_service=record.kind == "service",
        memberships=record.memberships,
        groups=record.groups,
        scopes=scopes,
        token=token,
        how=how,
    )


class Reader(Protocol):
    """What the directory reads with; `SqlStore` is one."""

    def read_now(self, work: Callable[[Connection], T]) -> T: ...


class Fallback(Protocol):
    def groups_of(self, name: str, *, team: str) -> frozenset[str]: ...


@dataclass(frozen=True, slots=True)
class AccountDirectory:
    """A `ringfence_tools.people.Directory` over the accounts; who has none is looked up in `fallback`."""

    reader: Reader
    fallback: Fallback

    def groups_of(self, name: str, *, team: str) -> frozenset[str]:
        found = self.reader.read_now(lambda connection: _groups_now(connection, name, team))
        return self.fallback.groups_of(name, team=team) if found is None else found


def _groups_now(connection: Connection, name: str, team: str) -> frozenset[str] | None:
    row = connection.execute(select(people.c.disabled_at).where(people.c.name == name)).first()
    if row is None:
        return None
    if row.disabled_at is not None:
        return frozenset()
    return frozenset(place.name for place in _groups(connection, name) if place.team in (team, EVERY_TEAM))


def _person(connection: Connection, row: Row[tuple[object, ...]]) -> PersonRecord:
    return _persons(connection, [row])[0]


def _persons(connection: Connection, rows: Sequence[Row[tuple[object, ...]]]) -> tuple[PersonRecord, ...]:
    """These accounts with their places, which are read for all of them at once."""
    names = [row.name for row in rows]
    roles: dict[str, set[Membership]] = {name: set() for name in names}
    groups: dict[str, set[GroupPlace]] = {name: set() for name in names}
    for each in connection.execute(select(memberships).where(memberships.c.person.in_(names))):
        roles[each.person].add(Membership(each.team, Role(each.role)))
    for place in connection.execute(select(person_groups).where(person_groups.c.person.in_(names))):
        groups[place.person].add(GroupPlace(place.team, place.name))
    return tuple(
        PersonRecord(
            name=row.name,
            kind=row.kind,
            display=row.display,
            email=row.email,
            has_password=bool(row.password),
            issuer=row.issuer,
            is_disabled=row.disabled_at is not None,
            created_at=row.created_at,
            memberships=tuple(sorted(roles[row.name], key=str)),
            groups=tuple(sorted(groups[row.name], key=str)),
        )
        for row in rows
    )


def _groups(connection: Connection, name: str) -> Sequence[GroupPlace]:
    query = select(person_groups.c.team, person_groups.c.name).where(person_groups.c.person == name).distinct()
    return sorted((GroupPlace(each.team, each.name) for each in connection.execute(query)), key=str)


def _check_teams(connection: Connection, names: set[str]) -> None:
    known = {row.name for row in connection.execute(select(teams.c.name).where(teams.c.name.in_(names)))}
    missing = sorted(names - known - {EVERY_TEAM})
    if missing:
        raise PersonUnknown(f"there is no team {missing[0][:63]}", fix="Create the team first")


def _change(tx: Transaction, name: str, **values: str | int) -> None:
    if not tx.connection.execute(update(people).where(people.c.name == name).values(**values)).rowcount:
        raise _unknown(name)


def _unknown(name: str) -> PersonUnknown:
    return PersonUnknown(f"there is no person {name[:63]}", fix="`ringfence admin people` lists them")


def _record(tx: Transaction, by: str, data: dict[str, JsonValue]) -> None:
    tx.record(Event(Kind.LOGIN, by, data))
