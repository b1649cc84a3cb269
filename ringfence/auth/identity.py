"""Who a request comes from and what they may do, as one value that every handler is given."""

from __future__ import annotations

from dataclasses import dataclass

from ringfence.auth.roles import EVERY_TEAM, PEOPLE_ONLY, Permission, Role, permissions_of
from ringfence_tools.people import Person


@dataclass(frozen=True, slots=True)
class Membership:
    team: str
    role: Role


@dataclass(frozen=True, slots=True)
class GroupPlace:
    team: str
    """The team in which the group counts, or `*`."""
    name: str


@dataclass(frozen=True, slots=True)
class Identity:
    """An authenticated caller. `scopes` is what a token narrows its owner to; None for a person at a browser."""

    name: str
    display: str
    is_service: bool
    memberships: tuple[Membership, ...]
    groups: tuple[GroupPlace, ...] = ()
    scopes: frozenset[Permission] | None = None
    token: str = ""
    how: str = "session"

    @property
    def principal(self) -> str:
        return f"person:{self.name}"

    def roles_in(self, team: str) -> frozenset[Role]:
        return frozenset(each.role for each in self.memberships if each.team in (team, EVERY_TEAM))

    def permissions_in(self, team: str) -> frozenset[Permission]:
        """What may be done in a team; for what belongs to no team (`""`) only roles in every team count."""
        held = permissions_of(self.roles_in(team))
        if self.is_service:
            held -= PEOPLE_ONLY
        return held if self.scopes is None else held & self.scopes

    def may(self, permission: Permission, team: str) -> bool:
        return permission in self.permissions_in(team)

    def may_anywhere(self, permission: Permission) -> bool:
        return any(self.may(permission, each.team) for each in self.memberships)

    def reach(self, permission: Permission) -> Reach:
        """Where the permission holds."""
        if self.may(permission, EVERY_TEAM):
            return Reach(is_everywhere=True)
        return Reach(teams=frozenset(each.team for each in self.memberships if self.may(permission, each.team)))

    def person_in(self, team: str) -> Person:
        """The caller with the groups that count for a team's work: the form that votes are cast in."""
        held = frozenset(each.name for each in self.groups if each.team in (team, EVERY_TEAM))
        return Person(self.name, held)


@dataclass(frozen=True, slots=True)
class Reach:
    """A set of teams, or all of them and what belongs to none."""

    teams: frozenset[str] = frozenset()
    is_everywhere: bool = False

    @property
    def is_nowhere(self) -> bool:
        return not self.is_everywhere and not self.teams

    def __contains__(self, team: object) -> bool:
        return self.is_everywhere or team in self.teams
