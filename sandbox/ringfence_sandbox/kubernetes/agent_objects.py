"""Comparing Kubernetes objects for a card, and the objects of a grant. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from ringfence_sandbox.kubernetes import names, rights
from ringfence_sandbox.kubernetes.agent_port import Change, Held, Right
from ringfence_sandbox.kubernetes.json_value import Json, Object, child

EXPIRES: Final = "ringfence/expires-at"
"""On a grant's Role: Unix seconds, for people's eyes. What lives is what the database says."""
GRANT: Final = "ringfence/grant"
"""Label of a grant's Role and RoleBinding; also, without value, of a namespace that may hold some."""

_VOLATILE: Final = frozenset(
    {
        "status",
        "metadata.uid",
        "metadata.resourceVersion",
        "metadata.creationTimestamp",
        "metadata.generation",
        "metadata.managedFields",
        "metadata.selfLink",
        "metadata.namespace",
        # chosen anew by each dry run
        "spec.clusterIP",
        "spec.clusterIPs",
    }
)
_OWN_UID: Final = "(its own uid)"
_TOKEN_VOLUME: Final = "kube-api-access-"  # noqa: S105 - the beginning of a volume's name
DEPTH: Final = 40


def changes(before: Object | None, after: Object) -> tuple[Change, ...]:
    """Every leaf that differs, by path; what the server chooses anew each time is left out."""
    old, new = _flat(before or {}), _flat(after)
    paths = sorted(set(old) | set(new))
    return tuple(Change(path, old.get(path), new.get(path)) for path in paths if old.get(path) != new.get(path))


def unasked(manifest: Object, found: Sequence[Change]) -> tuple[Change, ...]:
    """Changes of a new object that set a leaf of the manifest to something else than it says."""
    asked = dict(_leaves(manifest))
    return tuple(one for one in found if one.path in asked and asked[one.path] != one.after)


def _flat(thing: Object) -> dict[str, Json]:
    """Its leaves by path; its own uid, which a Job's labels hold and each dry run chooses anew, by name only."""
    uid = child(thing, "metadata", "uid")
    return {path: _OWN_UID if uid is not None and value == uid else value for path, value in _leaves(thing)}


def _leaves(value: Json, path: str = "", depth: int = 0) -> Iterator[tuple[str, Json]]:
    if path in _VOLATILE or depth > DEPTH:
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else key, depth + 1)
        if not value and path:
            yield path, {}
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for at, item in enumerate(value):
            yield from _leaves(item, f"{path}[{at}]", depth + 1)
        if not value:
            yield path, []
    elif isinstance(value, str) and value.startswith(_TOKEN_VOLUME):
        yield path, _TOKEN_VOLUME
    elif value is not None:
        yield path, value


def grant_role(namespace: str, grant: Held) -> Object:
    """The Role of a grant: its rights, named objects only where the right names one, and when it ends."""
    rules: list[Mapping[str, Json]] = []
    for right in sorted(grant.rights):
        rule: dict[str, Json] = {"apiGroups": [right.group], "resources": [right.resource], "verbs": [right.verb]}
        rules.append(rule | ({"resourceNames": [right.name]} if right.name else {}))
    made = rights.role(namespace, _name(grant), rules)
    metadata: dict[str, Json] = {"name": _name(grant), "namespace": namespace}
    metadata["labels"] = {names.MANAGED_BY: names.MANAGER, GRANT: grant.id}
    metadata["annotations"] = {EXPIRES: str(grant.expires_at)}
    return {**made, "metadata": metadata}


def grant_binding(namespace: str, grant: Held) -> Object:
    made = rights.binding(
        namespace,
        _name(grant),
        role=("Role", _name(grant)),
        subject=("ServiceAccount", names.SERVICE_ACCOUNT, namespace),
    )
    metadata: dict[str, Json] = {"name": _name(grant), "namespace": namespace}
    metadata["labels"] = {names.MANAGED_BY: names.MANAGER, GRANT: grant.id}
    return {**made, "metadata": metadata}


def rights_of(review: Object) -> Sequence[Right]:
    """A SelfSubjectRulesReview as rights, without the self-reviews that every identity has."""
    found: set[Right] = set()
    for rule in rights.resource_rules(review):
        for group in rights.words(rule, "apiGroups"):
            for resource in rights.words(rule, "resources"):
                if (group, resource) not in rights.ALLOWED:
                    for verb in rights.words(rule, "verbs"):
                        named = rights.words(rule, "resourceNames") or [""]
                        found |= {Right(verb, group, resource, name) for name in named}
    return sorted(found)


def _name(grant: Held) -> str:
    return f"grant-{grant.id}"
