"""Sandboxes and the kill switch."""

from __future__ import annotations

from pydantic import Field

from ringfence.api.forms.shape import Answered, Given, Name, Reason


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
