"""Reading what the API server answers. Its objects are outside data: a wrong shape is our error, never a stray one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from ringfence_sandbox.errors import ProtocolViolation

Json: TypeAlias = "str | int | float | bool | None | Sequence[Json] | Mapping[str, Json]"
Object: TypeAlias = Mapping[str, Json]
"""One Kubernetes object, as JSON."""


def child(value: Json, *path: str) -> Json:
    """The value at `path`, None where a step is missing."""
    for step in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(step)
    return value


def text(value: Json, *path: str) -> str:
    """The string at `path`, "" where it is missing. Raises `ProtocolViolation` where something else stands there."""
    found = child(value, *path)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise ProtocolViolation(f"the API server's answer holds no text at {'.'.join(path)}")
    return found


def mapping(value: Json, *path: str) -> Object:
    """The object at `path`, empty where it is missing. Raises `ProtocolViolation`."""
    found = child(value, *path)
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise ProtocolViolation(f"the API server's answer holds no object at {'.'.join(path)}")
    return found


def objects(value: Json, *path: str) -> list[Object]:
    """The list of objects at `path`, empty where it is missing. Raises `ProtocolViolation`."""
    found = child(value, *path)
    if found is None:
        return []
    if isinstance(found, str) or not isinstance(found, Sequence):
        raise ProtocolViolation(f"the API server's answer holds no list at {'.'.join(path)}")
    result: list[Object] = []
    for item in found:
        if not isinstance(item, Mapping):
            raise ProtocolViolation(f"the API server's answer holds something else than objects at {'.'.join(path)}")
        result.append(item)
    return result


def strings(value: Json, *path: str) -> dict[str, str]:
    """The string-to-string map at `path` (labels, annotations). Raises `ProtocolViolation`."""
    found = mapping(value, *path)
    result: dict[str, str] = {}
    for key, item in found.items():
        if not isinstance(item, str):
            raise ProtocolViolation(f"the API server's answer holds no text at {'.'.join(path)}.{key}")
        result[key] = item
    return result


def name_of(value: Object) -> str:
    return text(value, "metadata", "name")


def labels_of(value: Object) -> dict[str, str]:
    return strings(value, "metadata", "labels")
