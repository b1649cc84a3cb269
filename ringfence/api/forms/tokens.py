"""Tokens, and the log-in that gives one."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from ringfence.api.forms.shape import Answered, At, Given, Line, Name, Whole
from ringfence.auth.roles import Permission
from ringfence.auth.tokens import Token
from ringfence_tools.clock import moment


class NewToken(Given):
    scopes: Annotated[list[Annotated[Permission, Field(strict=False)]], Field(min_length=1, max_length=50)]
    label: Line = ""
    days: Annotated[int, Field(ge=1, le=366), Whole] = 30
    person: Name | None = Field(default=None, description="For a service account; by people.manage only")


class LoginGiven(Given):
    name: Annotated[str, StringConstraints(max_length=64)]
    password: Annotated[str, StringConstraints(max_length=512)]
    code: Annotated[str, StringConstraints(max_length=16)]
    label: Line = ""


class TokenMade(Answered):
    id: str
    token: str = Field(description="Shown once; empty where this key made the token before")
    expires_at: At


class TokenOut(Answered):
    id: str
    person: str
    scopes: list[Permission]
    label: str
    created_by: str
    created_at: At
    expires_at: At
    revoked_at: At | None
    used_at: At | None

    @classmethod
    def of(cls, token: Token) -> TokenOut:
        return cls(
            id=token.id,
            person=token.person,
            scopes=sorted(token.scopes),
            label=token.label,
            created_by=token.created_by,
            created_at=moment(token.created_at),
            expires_at=moment(token.expires_at),
            revoked_at=None if token.revoked_at is None else moment(token.revoked_at),
            used_at=moment(token.used_at) if token.used_at else None,
        )
