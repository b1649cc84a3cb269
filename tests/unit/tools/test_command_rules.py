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


def effect_of(command: str, profile: bytes) -> Effect:
    return Policy.compile(parse_profile(profile, "t")).decide("shell", accesses_of_shell(command)).effect


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
    assert effect_of(command, PROFILE) is Effect.ESCALATE


def test_the_command_itself_is_allowed() -> None:
    assert effect_of("git status", PROFILE) is Effect.ALLOW


LOOSE = b"""\
apiVersion: ringfence.dev/v1
kind: Profile
metadata: {name: t, owner: owner, version: 1}
rules:
  - {id: reading, allow: [shell], commands: ["git status", "ls", "ls *", "echo *", "printf *", "[ *", "cat *"]}
"""


@pytest.mark.parametrize(
    "command",
    [
        """for x in 'a[$(id)]'; do echo $((x)); done""",
        """for x in 'a[$(id)]'; do echo $[x]; done""",
        """for x in 'a[$(id)]'; do echo ${!x}; done""",
        """for x in 'a[$(id)]'; do echo ${PWD:x}; done""",
        """for x in 'a[$(id)]'; do echo ${y[x]}; done""",
        """for x in '$(id)'; do echo "${x@P}"; done""",
        """for x in *; do echo $((x)); done""",
        """echo ${y:='a[$(id)]'} $((y))""",
        """ls() { echo $(($1)); }; ls 'a[$(id)]'""",
        "echo ${x-`id`}",
        "echo ${x%%`id`}",
        "printf -v 'a[$(id)]' x",
        "[ -v 'a[$(id)]' ]",
        """for x in 'a[$(id)]'; do [ x -eq 1 ]; done""",
    ],
)
def test_a_command_in_a_value_that_bash_evaluates_asks(command: str) -> None:
    assert effect_of(command, LOOSE) is Effect.ESCALATE


@pytest.mark.parametrize(
    "command",
    [
        "for PATH in /workspace; do ls; done",
        "for GIT_EXTERNAL_DIFF in x; do git status; done",
        "for https_proxy in x; do git status; done",
        "echo ${PATH:=/workspace}; ls",
        "echo $((PATH=5)); ls",
        "/workspace/git status",
        "./ls x",
        "../usr/bin/ls",
        "/usr/bin/../../workspace/ls",
    ],
)
def test_another_program_under_an_allowed_name_asks(command: str) -> None:
    assert effect_of(command, LOOSE) is Effect.ESCALATE


@pytest.mark.parametrize(
    "command",
    [
        "for i in 1 2 3; do echo $((i+1)); done",
        'for f in *.py; do cat "$f"; echo ${f%.py} ${#f} ${f##*/} ${f:-x} ${f:0:3}; done',
        "for i in {1..3}; do echo $((i*2)); done",
        'echo "$HOME ${PWD} $? $((1+1))"',
        "/usr/bin/git status",
        "printf '%s' x",
        "[ -f x ] && ls",
    ],
)
def test_what_people_write_every_day_is_read(command: str) -> None:
    assert effect_of(command, LOOSE) is Effect.ALLOW
