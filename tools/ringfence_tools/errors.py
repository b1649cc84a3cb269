"""What can go wrong in the tools room, split by what the caller can do.

ToolsError
├── ProfileInvalid     the profile's author must mend it; `problems` names each place
│   ├── ProfileTestsFailed   its own tests say that it is not what its author meant
│   └── VersionTaken         its number was published already, or something was published meanwhile
├── PolicyError        a policy cannot be compiled or evaluated: deny, tell the platform engineer
├── LeaseLost          another worker has this run: stop at once, write nothing
├── EscalationClosed   the vote comes too late or twice: show the person what stands
├── NotAllowedToVote   this person may not decide this escalation: ask another
└── NotFound           no such escalation, grant or call
"""

from __future__ import annotations

from collections.abc import Sequence


class ToolsError(Exception):
    """Base of every error that this room raises."""


class ProfileInvalid(ToolsError):
    """The profile does not say what it must. One problem a line, each with its place."""

    def __init__(self, name: str, problems: Sequence[str]) -> None:
        super().__init__(f"profile {name}: " + "; ".join(problems))
        self.problems = tuple(problems)


class ProfileTestsFailed(ProfileInvalid):
    """A test in the profile ends otherwise than it says."""


class VersionTaken(ProfileInvalid):
    """Another text stands under this number, or another version came between looking and publishing."""


class PolicyError(ToolsError):
    """A policy cannot be compiled or evaluated."""


class LeaseLost(ToolsError):
    """The run's fencing token is higher than ours."""


class EscalationClosed(ToolsError):
    """The escalation is settled already, or has expired."""


class NotAllowedToVote(ToolsError):
    """The person lacks the group that this escalation asks, or is barred by four-eyes."""


class NotFound(ToolsError):
    """No such escalation, grant or call."""
