"""Who people are to this room: a name, and the groups in which they may decide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ringfence_tools.calls import Terms


@dataclass(frozen=True, slots=True)
class Person:
    """A person as the caller has authenticated them. `name` is the principal without its `person:` prefix."""

    name: str
    groups: frozenset[str]

    @property
    def principal(self) -> str:
        return f"person:{self.name}"


class Directory(Protocol):
    """Tells a person's groups as they are now; an approval is checked against it again when it is consumed."""

    def groups_of(self, name: str, *, team: str) -> frozenset[str]:
        """The groups that count for a team's work (`""`: work of no team). Empty for someone unknown."""


def groups_that_count(terms: Terms, groups: frozenset[str]) -> frozenset[str]:
    """Which of a person's groups these terms ask for. Any person at all where no group is named."""
    return groups & (frozenset(terms.any_of) | frozenset(terms.all_of))


def is_satisfied(terms: Terms, votes: dict[str, frozenset[str]]) -> bool:
    """Whether approvals (person → groups they hold now) fulfil the terms: one of `any_of`, and all of `all_of`."""
    held = frozenset().union(*votes.values()) if votes else frozenset()
    if not votes or not set(terms.all_of) <= held:
        return False
    return not terms.any_of or bool(held & set(terms.any_of))
