"""People and teams."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ringfence.api.forms.shape import Answered, At, Given, Line, Name, TeamName
from ringfence.auth.people import PersonRecord
from ringfence.auth.roles import Permission, Role
from ringfence_tools.clock import moment


class TeamOut(Answered):
    name: str
    title: str
    created_at: At


class NewTeam(Given):
    name: Name
    title: Line = ""


class Place(Given):
    team: TeamName
    role: Annotated[Role, Field(strict=False)]


class GroupGiven(Given):
    team: TeamName
    name: Name


class NewPerson(Given):
    name: Name
    display: Line = ""
    email: Line = ""
    kind: Literal["person", "service"] = "person"


class Places(Given):
    roles: Annotated[list[Place], Field(max_length=500)]
    groups: Annotated[list[GroupGiven], Field(max_length=500)] = Field(default=[])


class PlaceOut(Answered):
    team: str
    role: Role


class GroupOut(Answered):
    team: str
    name: str


class PersonOut(Answered):
    name: str
    kind: str
    display: str
    email: str
    is_enrolled: bool
    is_disabled: bool
    issuer: str
    roles: list[PlaceOut]
    groups: list[GroupOut]
    created_at: At

    @classmethod
    def of(cls, person: PersonRecord) -> PersonOut:
        return cls(
            name=person.name,
            kind=person.kind,
            display=person.display,
            email=person.email,
            is_enrolled=person.has_password or bool(person.issuer),
            is_disabled=person.is_disabled,
            issuer=person.issuer,
            roles=[PlaceOut(team=each.team, role=each.role) for each in person.memberships],
            groups=[GroupOut(team=place.team, name=place.name) for place in person.groups],
            created_at=moment(person.created_at),
        )


class Invitation(Answered):
    url: str = Field(description="Opens once, within a day")


class Me(Answered):
    name: str
    display: str
    kind: str
    how: str
    roles: list[PlaceOut]
    groups: list[GroupOut]
    permissions: dict[str, list[Permission]] = Field(description="By team; * is every team")
