"""YAML as a profile may use it: bounded, no aliases, no tags, no key twice; every value knows its line.

A profile decides what an agent may do, so whatever two readers could understand differently is refused: duplicate
keys, merge keys, anchors, several documents. Bytes in, plain data out, or `ProfileInvalid`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeAlias

import yaml

from ringfence_tools.errors import ProfileInvalid

MAX_BYTES = 128 << 10
MAX_DEPTH = 12
MAX_EVENTS = 20_000

Place: TypeAlias = tuple[str | int, ...]
Plain: TypeAlias = "str | int | bool | None | Decimal | list[Plain] | dict[str, Plain]"


@dataclass(frozen=True, slots=True)
class Document:
    """A profile as written. `lines` maps the place of each value (keys and list indices) to its line, from 1."""

    name: str
    data: dict[str, Plain]
    lines: Mapping[Place, int]

    def line_of(self, place: Place) -> int:
        """The line of a place, or of the nearest one around it."""
        for length in range(len(place), -1, -1):
            if place[:length] in self.lines:
                return self.lines[place[:length]]
        return 1


def read_document(raw: bytes, name: str) -> Document:
    """Read one YAML mapping. Raises `ProfileInvalid` that names the line and what to do."""
    if len(raw) > MAX_BYTES:
        raise ProfileInvalid(name, [f"larger than {MAX_BYTES // 1024} KiB: split it with extends"])
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ProfileInvalid(name, [f"not UTF-8 at byte {error.start}: save it as UTF-8"]) from error
    try:
        _check_events(text, name)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ProfileInvalid(name, [_explain(error)]) from error
    if not isinstance(node, yaml.MappingNode):
        raise ProfileInvalid(name, ["line 1: a profile is a mapping that starts with apiVersion and kind"])
    lines: dict[Place, int] = {}
    problems: list[str] = []
    data = _plain(node, (), lines, problems)
    if problems or not isinstance(data, dict):
        raise ProfileInvalid(name, problems or ["line 1: a profile is a mapping"])
    return Document(name, data, lines)


def _check_events(text: str, name: str) -> None:
    """Walk the flat events first: the composer recurses, and must never meet a document that is too deep."""
    depth = documents = 0
    for count, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        line = _line(event.start_mark)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise ProfileInvalid(name, [f"line {line}: anchors and aliases are not read; write the value out"])
        if getattr(event, "tag", None):
            raise ProfileInvalid(name, [f"line {line}: tags (!…) are not read; write the plain value"])
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH or count > MAX_EVENTS or documents > 1:
            raise ProfileInvalid(name, [f"line {line}: too deep, too long, or more than one document"])


def _plain(node: yaml.Node, place: Place, lines: dict[Place, int], problems: list[str]) -> Plain:
    lines[place] = _line(node.start_mark)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*place, index), lines, problems) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Plain] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            line = _line(key_node.start_mark)
            if not isinstance(key, str) or key_node.tag == "tag:yaml.org,2002:merge":
                problems.append(f"line {line}: keys are plain words")
                continue
            if key in result:
                problems.append(f"line {line}: {key[:80]!r} stands twice; remove one")
            result[key] = _plain(value_node, (*place, key), lines, problems)
            lines[(*place, key)] = line
        return result
    return _scalar(node, problems)


def _scalar(node: yaml.Node, problems: list[str]) -> Plain:
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    text: str = node.value
    line = _line(node.start_mark)
    if kind == "null":
        return None
    if kind == "bool":
        # YAML 1.1 reads `on`, `off`, `yes` and `no` as truth values; people mean words by them.
        return text.lower() == "true" if text.lower() in ("true", "false") else text
    if kind == "int" and text.isascii() and text.lstrip("-").isdigit() and len(text) < 16:
        return int(text)
    if kind == "float" and len(text) < 32 and set(text) <= set("0123456789.-"):
        return Decimal(text)
    if kind in ("str", "timestamp", "value"):
        return text
    problems.append(f"line {line}: {text[:40]!r} can be read in more than one way; put it in quotes")
    return None


def _explain(error: yaml.YAMLError) -> str:
    mark: object = getattr(error, "problem_mark", None)
    line = f"line {_line(mark)}: " if mark is not None else ""
    return f"{line}not readable as YAML: {getattr(error, 'problem', None) or 'bad character'}"


def _line(mark: object) -> int:
    """A mark's line, from 1. PyYAML types its marks as optional and by two classes."""
    line: object = getattr(mark, "line", 0)
    return line + 1 if isinstance(line, int) else 1
