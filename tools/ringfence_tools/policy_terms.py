"""Whom an escalation asks: read from a policy's annotations, and merged where several policies ask at once. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ringfence_tools.calls import GrantWidth, Terms
from ringfence_tools.errors import PolicyError

MAX_TTL_S = 30 * 86400
_WIDTHS: tuple[GrantWidth, ...] = ("once", "task", "team")
_KNOWN = frozenset({"id", "say", "escalate", "all", "approvals", "ttl", "widest", "four_eyes"})


def read_terms(policy_id: str, annotations: Mapping[str, str]) -> Terms | None:
    """The terms of an `@escalate` policy; None for one that forbids or permits outright. Raises `PolicyError`.

    `@escalate("a,b")` names the groups of which one suffices, `@all("c,d")` those that must all agree, `@ttl("s")`
    seconds until it denies, `@widest("once|task|team")`, `@four_eyes("true")`. An annotation that is not known is
    refused: a misspelt `@escalate` would turn a question into something else.
    """
    unknown = set(annotations) - _KNOWN
    if unknown:
        raise PolicyError(f"policy {policy_id}: unknown annotation @{min(unknown)}")
    if "escalate" not in annotations:
        if set(annotations) - {"id", "say"}:
            raise PolicyError(f"policy {policy_id}: terms without @escalate")
        return None
    any_of = _groups(annotations["escalate"])
    all_of = _groups(annotations.get("all", ""))
    if not any_of and not all_of:
        raise PolicyError(f"policy {policy_id}: @escalate names no group")
    if annotations.get("approvals", "1") != "1":
        raise PolicyError(f"policy {policy_id}: @approvals is 1; to need more people, name each group in @all")
    ttl = annotations.get("ttl", str(4 * 3600))
    if not ttl.isascii() or not ttl.isdigit() or len(ttl) > 8 or not 0 < int(ttl) <= MAX_TTL_S:
        raise PolicyError(f"policy {policy_id}: @ttl is seconds, at most {MAX_TTL_S}")
    widest = next((width for width in _WIDTHS if width == annotations.get("widest", "task")), None)
    if widest is None:
        raise PolicyError(f"policy {policy_id}: @widest is once, task or team")
    four_eyes = annotations.get("four_eyes", "false")
    if four_eyes not in ("true", "false"):
        raise PolicyError(f"policy {policy_id}: @four_eyes is true or false")
    return Terms(any_of, all_of, ttl_s=int(ttl), widest_grant=widest, four_eyes=four_eyes == "true")


def merge_terms(terms: Sequence[Terms]) -> Terms:
    """Terms that satisfy all of those given, never fewer people than any one of them asks."""
    all_of: dict[str, None] = {}
    choices: list[tuple[str, ...]] = []
    for one in terms:
        all_of.update(dict.fromkeys(one.all_of))
        if len(one.any_of) == 1:
            all_of[one.any_of[0]] = None
        elif one.any_of:
            choices.append(one.any_of)
    any_of: tuple[str, ...] = ()
    for choice in choices:
        if any(group in all_of for group in choice):
            continue
        common = tuple(group for group in any_of if group in choice)
        if not any_of or common:
            any_of = common or choice
        else:
            # `Terms` holds one choice. Two that share nobody: all of the second is stricter than one of it.
            all_of.update(dict.fromkeys(choice))
    if any(group in all_of for group in any_of):
        any_of = ()
    if not any_of and len(all_of) == 1:
        any_of, all_of = tuple(all_of), {}
    return Terms(
        any_of,
        tuple(all_of),
        ttl_s=min(one.ttl_s for one in terms),
        widest_grant=min((one.widest_grant for one in terms), key=_WIDTHS.index),
        four_eyes=any(one.four_eyes for one in terms),
    )


def _groups(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(group.strip() for group in text.split(",") if group.strip()))
