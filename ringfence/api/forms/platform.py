"""Profiles, sandboxes and the kill switch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from ringfence.api.forms.shape import Answered, Given, Name, Reason


class ProfileLine(Answered):
    name: str
    place: Literal["built in", "published"]
    version: int | None
    description: str
    problem: str


class ProfileOut(Answered):
    name: str
    version: int
    description: str
    policy_version: str
    words: list[str] = Field(description="What it allows, asks and forbids, in plain words")
    document: str = Field(description="YAML, with what it extends merged in")


class TryCall(Given):
    call: Annotated[str, StringConstraints(min_length=1, max_length=8000)] = Field(
        description="`shell pytest -q`, `network GET https://example.org/`, `files write /etc/hosts` …"
    )


class TryAnswer(Answered):
    effect: Literal["allow", "escalate", "forbid"]
    rules: list[str]
    reason: str
    instead: str
    any_of: list[str]
    all_of: list[str]


class Stopped(Answered):
    runs: list[str]


class StopGiven(Given):
    reason: Reason
    team: Name | None = Field(default=None, description="One team's runs; without it, every run")


class SandboxOut(Answered):
    id: str
    run: str
    team: str
    state: str
    worker: str
