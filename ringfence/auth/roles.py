"""Who may do what: the one table from which the API, the command line, the console's buttons and the docs are made.

A person holds roles in teams; a role in the team `*` holds in every team and for what belongs to no team. A token
narrows its owner's permissions, it never widens them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

EVERY_TEAM = "*"


class Role(StrEnum):
    MEMBER = "member"
    REVIEWER = "reviewer"
    AUDITOR = "auditor"
    PLATFORM = "platform"
    ADMIN = "admin"


class Permission(StrEnum):
    """What a request needs. The value is also a token's scope."""

    READ = "team.read"
    ASSIGN = "task.assign"
    STEER = "run.steer"
    STOP = "run.stop"
    DECIDE = "escalation.decide"
    REVOKE = "grant.revoke"
    READ_ENTRIES = "entry.read"
    EXPORT = "entry.export"
    PUBLISH = "profile.publish"
    OPERATE = "operate"
    MANAGE = "people.manage"


MEANINGS: Mapping[Permission, str] = MappingProxyType(
    {
        Permission.READ: "see the team's tasks, runs, cards, grants and profiles",
        Permission.ASSIGN: "assign a task to an AI developer",
        Permission.STEER: "message, pause and resume a run, change its budget",
        Permission.STOP: "cancel a run",
        Permission.DECIDE: "approve, deny and edit what waits, in the groups that one holds",
        Permission.REVOKE: "revoke a grant",
        Permission.READ_ENTRIES: "read and query the log",
        Permission.EXPORT: "export the log with its proofs",
        Permission.PUBLISH: "publish profiles and policies",
        Permission.OPERATE: "see sandboxes, workers and queues; stop a team or everything",
        Permission.MANAGE: "create people, teams and service accounts, give roles",
    }
)

TABLE: Mapping[Role, frozenset[Permission]] = MappingProxyType(
    {
        Role.MEMBER: frozenset({Permission.READ, Permission.ASSIGN, Permission.STEER, Permission.STOP}),
        Role.REVIEWER: frozenset({Permission.READ, Permission.DECIDE, Permission.REVOKE, Permission.STOP}),
        Role.AUDITOR: frozenset({Permission.READ, Permission.READ_ENTRIES, Permission.EXPORT}),
        Role.PLATFORM: frozenset(
            {Permission.READ, Permission.PUBLISH, Permission.OPERATE, Permission.STOP, Permission.REVOKE}
        ),
        Role.ADMIN: frozenset(
            {Permission.READ, Permission.MANAGE, Permission.OPERATE, Permission.STOP, Permission.READ_ENTRIES}
        ),
    }
)

PEOPLE_ONLY = frozenset({Permission.DECIDE, Permission.MANAGE})
"""What no service account may do, whatever role it was given: a decision is a person's."""


def permissions_of(roles: frozenset[Role]) -> frozenset[Permission]:
    return frozenset().union(*(TABLE[role] for role in roles))


def markdown() -> str:
    """The table as the docs show it."""
    lines = ["| permission | " + " | ".join(Role) + " | meaning |", "|---" * (len(Role) + 2) + "|"]
    for permission in Permission:
        marks = " | ".join("yes" if permission in TABLE[role] else "" for role in Role)
        lines.append(f"| `{permission}` | {marks} | {MEANINGS[permission]} |")
    return "\n".join(lines)
