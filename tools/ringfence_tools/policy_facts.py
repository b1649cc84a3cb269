"""From an access to the facts that a policy sees. What is not stated is taken at its most dangerous.

Pure. A resource that cannot be read raises `PolicyError`, which the policy turns into a forbid.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import TypeAlias, assert_never

from ringfence_tools.calls import Access, Family
from ringfence_tools.errors import PolicyError
from ringfence_tools.hosts import HostInvalid, split_resource

Facts: TypeAlias = "dict[str, str | int | bool]"

MAX_TEXT = 64 << 10
MAX_PATH = 4096
WORKSPACE = "/workspace"
SENDING_METHODS = frozenset({"PUT", "POST", "PATCH"})


def facts_of(tool: str, access: Access) -> Facts:
    """The context of one access, in the shape that the schema demands. Raises `PolicyError`."""
    facts: Facts = {"tool": _text(tool, 300)}
    match access.family:
        case Family.SHELL:
            return facts | _shell(access.attributes)
        case Family.FILES:
            return facts | _file(access)
        case Family.NETWORK:
            return facts | _network(access)
        case Family.DELIVER:
            return facts | _delivered(access)
        case Family.CLUSTER:
            return facts | {"resource": _text(access.resource, MAX_PATH)}
        case Family.TOOL:
            # The access names the tool; a caller that passes another name as `tool` must not decide for it.
            return {"tool": _text(access.resource, 300)}
        case Family.PEOPLE:
            return facts
        case _:
            assert_never(access.family)


def _shell(given: Mapping[str, str | int | bool]) -> Facts:
    words = given.get("words")
    is_short = isinstance(words, str) and len(words) <= MAX_TEXT
    return {
        "program": _text(given.get("program", ""), MAX_TEXT) if is_short else "",
        "words": _text(words, MAX_TEXT) if is_short else "",
        "is_whole": words is None,
        "is_parsed": given.get("parsed") is True,
        "is_static": is_short and given.get("static") is True,
        "assigns": given.get("assigns", True) is not False,
        "wraps": given.get("wraps") is True,
    }


def _file(access: Access) -> Facts:
    path = _clean_path(access.resource)
    if not path.startswith("/"):
        raise PolicyError("a file's path inside the sandbox is absolute")
    is_inside = path == WORKSPACE or path.startswith(WORKSPACE + "/")
    shown = path.removeprefix(WORKSPACE).removeprefix("/") or "." if is_inside else path
    return _path_facts(shown) | {
        "write": access.attributes.get("write", True) is not False,
        "outside": not is_inside or access.attributes.get("outside", False) is not False,
    }


def _delivered(access: Access) -> Facts:
    path = _clean_path(access.resource)
    if path.startswith(("/", "../")) or path in ("..", "."):
        raise PolicyError("a path of a patch lies below the repository")
    return _path_facts(path)


def _clean_path(path: str) -> str:
    if not path or "\0" in path:
        raise PolicyError("a path is neither empty nor holds a NUL")
    cleaned = posixpath.normpath(_text(path, MAX_PATH))
    return "/" + cleaned.lstrip("/") if cleaned.startswith("/") else cleaned


def _path_facts(path: str) -> Facts:
    depth = path.strip("/").count("/") + 1
    return {"path": path, "name": posixpath.basename(path), "depth": depth}


def _network(access: Access) -> Facts:
    try:
        host, port = split_resource(access.resource)
    except HostInvalid as error:
        raise PolicyError(f"network resource unreadable: {error}") from error
    given = access.attributes
    method = _text(given.get("method", ""), 40).upper()
    return {
        "host": host,
        "port": port,
        "method": method,
        "path": _text(given.get("path", ""), MAX_TEXT),
        "url": _text(given.get("url", ""), MAX_TEXT),
        "sends": given.get("sends", False) is not False or method in SENDING_METHODS,
    }


def _text(value: object, limit: int) -> str:
    """Text that the engine can take. Lone surrogates and other types are refused rather than guessed at."""
    if not isinstance(value, str) or len(value) > limit:
        raise PolicyError(f"expected text of at most {limit} characters")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PolicyError("text holds a lone surrogate") from error
    return value
