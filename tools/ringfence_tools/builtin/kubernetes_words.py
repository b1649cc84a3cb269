"""The `kubernetes` tools in words: accesses and the Role rules behind them, manifests, results, lines of a card. Pure.

What a cluster answers is hostile: objects may hold anything that an agent or its images wrote. So everything is
bounded and anything that could act on a screen is spelled out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

import yaml

from ringfence_sandbox.kubernetes.agent_port import (
    GROUP_OF,
    RESOURCE_OF,
    Change,
    DryRun,
    Resource,
    Right,
    Seen,
)
from ringfence_sandbox.kubernetes.json_value import Json, Object, child
from ringfence_tools.bounded import bounded
from ringfence_tools.calls import Access, Family
from ringfence_tools.card_text import visible
from ringfence_tools.toolbox import ToolRefusal

HOME = "run"
"""The namespace of every access: the run's own, whatever it is called. There is no way to name another."""
CARD_LINES = 40
VALUE_LIMIT = 120
DEPTH_LIMIT = 30


def access(verb: str, resource: str, name: str = "*") -> Access:
    """`verb group/resource run/name`, in RBAC's words; `resource` may have a part, such as `pods/log`."""
    group = GROUP_OF[resource.partition("/")[0]]
    return Access(Family.CLUSTER, f"{verb} {group}/{resource} {HOME}/{name}")


def right_of(resource: str) -> Right:
    """The right that a cluster access comes down to. Raises `ToolRefusal` for one that no tool makes."""
    verb, _, rest = resource.partition(" ")
    what, _, where = rest.partition(" ")
    group, _, kind = what.partition("/")
    home, _, name = where.partition("/")
    if home != HOME or not verb or not kind or GROUP_OF.get(kind.partition("/")[0]) != group:
        raise ToolRefusal(f"{resource[:200]!r} names nothing that a run can have on a cluster")
    return Right(verb, group, kind, "" if name == "*" else name)


def rights_of(accesses: Iterable[Access]) -> tuple[Right, ...]:
    """The rights that accesses need, with the reading that goes with a change (its diff)."""
    found = {right_of(one.resource) for one in accesses if one.family is Family.CLUSTER}
    found |= {Right("get", one.group, one.resource, one.name) for one in found if one.verb in ("patch", "delete")}
    found |= {Right("get", one.group, one.resource, one.name) for one in found if one.resource == "pods/portforward"}
    return tuple(sorted(found))


# -- manifests -------------------------------------------------------------------------------------------------------


def read_manifest(source: str) -> Object:
    """One object in YAML or JSON, plain data without aliases. Raises `ToolRefusal` with what to mend."""
    try:
        _check_events(source)
        documents = [one for one in yaml.load_all(source, Loader=yaml.CSafeLoader) if one is not None]
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ToolRefusal(f"the manifest is no YAML: {str(error)[:300]}") from error
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise ToolRefusal("give one object at a time, so that people can decide on each")
    try:
        # what YAML reads as dates or sets has no place in an object; JSON knows none of them
        manifest: Object = json.loads(json.dumps(documents[0], allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ToolRefusal(f"the manifest holds something that is no JSON: {str(error)[:200]}; quote it") from error
    return manifest


def _check_events(source: str) -> None:
    """Before anything is built: no aliases (which multiply), no tags (which make other things), no abyss."""
    depth = 0
    for event in yaml.parse(source, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None):
            raise ToolRefusal("the manifest uses YAML aliases or tags; write it out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH_LIMIT:
            raise ToolRefusal(f"the manifest is nested more than {DEPTH_LIMIT} deep")


def resource_of(manifest: Object) -> Resource:
    """Raises `ToolRefusal` for a kind that is not an agent's to make."""
    api_version, kind = child(manifest, "apiVersion"), child(manifest, "kind")
    found = RESOURCE_OF.get((str(api_version), str(kind)))
    if found is None:
        kinds = ", ".join(f"{name} ({version})" for version, name in RESOURCE_OF)
        raise ToolRefusal(f"{str(api_version)[:80]} {str(kind)[:80]} is not an agent's to make; it may be {kinds}")
    return found


def name_in(manifest: Object) -> str:
    """Raises `ToolRefusal` without a name, and for a namespace: there is only the run's own."""
    metadata = child(manifest, "metadata")
    if not isinstance(metadata, Mapping) or not isinstance(metadata.get("name"), str) or not metadata["name"]:
        raise ToolRefusal("the manifest needs metadata.name")
    if "namespace" in metadata:
        raise ToolRefusal("leave metadata.namespace out: it is always the run's own")
    return str(metadata["name"])


# -- for the agent ---------------------------------------------------------------------------------------------------


def shown(item: Object) -> str:
    """An object as YAML in ASCII, without what only servers keep."""
    metadata = child(item, "metadata")
    kept = (
        {key: value for key, value in metadata.items() if key != "managedFields"}
        if isinstance(metadata, Mapping)
        else {}
    )
    return bounded(yaml.safe_dump({**item, "metadata": kept}, sort_keys=False, allow_unicode=False, width=160))


def row(item: Object) -> str:
    """An object of a list in one line: its name and what its status comes down to."""
    parts = [_name(item)]
    state = _text(item, "status", "phase") or _text(item, "reason")
    for container in _list(item, "status", "containerStatuses"):
        waiting = _text(container, "state", "waiting", "reason") or _text(container, "state", "terminated", "reason")
        state = waiting or state
    ready, wanted = child(item, "status", "readyReplicas"), child(item, "spec", "replicas")
    if isinstance(wanted, int):
        parts.append(f"{ready if isinstance(ready, int) else 0}/{wanted} ready")
    parts += [state] if state else []
    if message := _text(item, "message"):
        parts.append(message[:300])
    return visible("  ".join(parts)[:600])


def events(seen: Iterable[Seen]) -> str:
    return bounded("\n".join(f"{visible(one.type[:20])} {row(one.object)}" for one in seen))


def lines_of(data: bytes) -> str:
    """What a container or a port said, as text; what could act on a screen is spelled out."""
    decoded = data.decode(errors="replace")
    return bounded("\n".join(visible(line, is_exact=False) for line in decoded.split("\n")))


# -- for the card ----------------------------------------------------------------------------------------------------


def digest_of(dry_run: DryRun) -> str:
    """What an approval is bound to: whether the object is new, and each change."""
    rows = [[one.path, one.before, one.after] for one in dry_run.changes]
    return hashlib.sha256(json.dumps([dry_run.is_new, rows], sort_keys=True).encode()).hexdigest()


def manifest_digest(manifest: Object) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def diff_lines(dry_run: DryRun, asked: Object) -> tuple[str, ...]:
    """The changes, what the manifest names first; for a new object the server's defaults are only counted."""
    named = [one for one in dry_run.changes if _is_named(asked, one.path)]
    others = [one for one in dry_run.changes if one not in named]
    shown_first = named if dry_run.is_new else [*named, *others]
    lines = [_change_line(one) for one in shown_first[:CARD_LINES]]
    if (more := len(shown_first) - CARD_LINES) > 0:
        lines.append(f"… and {more} more fields")
    if dry_run.is_new and others:
        lines.append(f"… and {len(others)} fields that the server sets by itself")
    return tuple(lines)


def already(rights: Sequence[Right]) -> str:
    """What the run's account may do before this, in one line."""
    by_verbs: dict[tuple[str, ...], list[str]] = {}
    verbs_of: dict[tuple[str, str, str], set[str]] = {}
    for one in rights:
        verbs_of.setdefault((one.group, one.resource, one.name), set()).add(one.verb)
    for (group, resource, name), found_verbs in sorted(verbs_of.items()):
        verbs = tuple(sorted(found_verbs))
        what = f"{resource}.{group}" if group else resource
        by_verbs.setdefault(verbs, []).append(f"{what} {name}".strip())
    said = "; ".join(f"{', '.join(verbs)} {', '.join(found)}" for verbs, found in by_verbs.items())
    return f"its account may already: {said[:500] or 'nothing'}"


def _is_named(asked: Object, path: str) -> bool:
    return path.partition(".")[0].partition("[")[0] in asked and _at(asked, path)


def _at(asked: Json, path: str) -> bool:
    for step in path.replace("[", ".[").split("."):
        if step.startswith("["):
            at = int(step[1:-1])
            if isinstance(asked, str) or not isinstance(asked, Sequence) or at >= len(asked):
                return False
            asked = asked[at]
        elif isinstance(asked, Mapping):
            if step not in asked:
                return False
            asked = asked[step]
        else:
            return False
    return True


def _change_line(one: Change) -> str:
    return f"{visible(one.path[:300])}: {visible(_value(one.before))} → {visible(_value(one.after))}"


def _value(value: Json) -> str:
    if value is None:
        return "(none)"
    said = json.dumps(value, ensure_ascii=False)
    return said if len(said) <= VALUE_LIMIT else f"{said[:VALUE_LIMIT]}… ({len(said)} characters)"


def _name(item: Object) -> str:
    return _text(item, "metadata", "name") or "(no name)"


def _text(item: Json, *path: str) -> str:
    found = child(item, *path)
    return found if isinstance(found, str) else ""


def _list(item: Json, *path: str) -> list[Mapping[str, Json]]:
    found = child(item, *path)
    items = found if isinstance(found, Sequence) and not isinstance(found, str) else []
    return [one for one in items if isinstance(one, Mapping)]
