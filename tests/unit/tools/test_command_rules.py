"""A rule that allows a command allows that command, not another one under its name."""

from __future__ import annotations

import pytest

from ringfence_tools.calls import Effect
from ringfence_tools.policy import Policy
from ringfence_tools.profile import parse_profile
from ringfence_tools.shell_reading import accesses_of_shell

PROFILE = b"""\
apiVersion: ringfence.dev/v1
kind: Profile
metadata: {name: t, owner: owner, version: 1}
rules:
  - {id: git, allow: [shell], commands: ["git status"]}
"""


@pytest.mark.parametrize(
    "command",
    [
        "PATH=x; git status",
        "PATH=x git status",
        "export PATH=x; git status",
        "LD_PRELOAD=x bash -c 'git status'",
        "git status; id",
        "git status $(id)",
    ],
)
def test_a_command_that_is_changed_by_what_stands_around_it_asks(command: str) -> None:
    policy = Policy.compile(parse_profile(PROFILE, "t"))
    assert policy.decide("shell", accesses_of_shell(command)).effect is Effect.ESCALATE


def test_the_command_itself_is_allowed() -> None:
    policy = Policy.compile(parse_profile(PROFILE, "t"))
    assert policy.decide("shell", accesses_of_shell("git status")).effect is Effect.ALLOW
