"""Expansions that do more than put a value in: they evaluate it, or they set a variable.

bash runs a command substitution that a variable's *value* holds where the value is taken as arithmetic (`$((x))`,
`${y:x}`, `a[x]`), as another variable's name (`${!x}`) or as a prompt (`${x@P}`). Such a command stands nowhere as a
command. What the text cannot have put into a variable is not suspected: the environment is not the agent's.
Source: bash(1), "Shell Parameter Expansion" and "Arithmetic Evaluation".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from tree_sitter import Node

from ringfence_tools.shell_reading_words import text_of

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_NAMES = re.compile(rf"(?<![A-Za-z0-9_]){_NAME}")
_POSITIONAL = re.compile(r"\$\{?[0-9@*]")
_PARTS = re.compile(rf"\$\{{(#?)(!?)({_NAME}|[0-9]+|[@*#?$!-])(\[[^\]]*\])?(.*)\}}", re.DOTALL)
_SETS = re.compile(rf"({_NAME})\s*(?:(?:[-+*/%&|^]|<<|>>)?=(?!=)|\+\+|--)|(?:\+\+|--)\s*({_NAME})")
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
_SETTERS = frozenset(
    {"read", "mapfile", "readarray", "getopts", "printf", "let", "set", "shift", "eval", "source", "."}
)
"""Commands that may set any variable; what declares variables is a kind of node of its own."""
_TESTS = frozenset({"test", "[", "unset"})
_COMPARES = re.compile(r"\s-(?:eq|ne|lt|le|gt|ge)\s")
_NUMERIC = frozenset({"number", "arithmetic_expansion"})


@dataclass(slots=True)
class Expansions:
    """`problems`: what may run unseen. `assigned`: variables that are set otherwise than by an assignment."""

    problems: list[str] = field(default_factory=list)
    assigned: list[str] = field(default_factory=list)


def look_at_expansions(nodes: list[Node]) -> Expansions:
    """Look at all nodes of a parsed text. Never raises."""
    found = Expansions()
    dirty, is_any_dirty = _dirty(nodes)
    for node in nodes:
        raw = text_of(node)
        evaluated: list[str] = []
        if node.type == "expansion":
            evaluated = list(_evaluated(raw))
            if _has_hidden_command(node, raw, but=_QUOTED):
                found.problems.append(f"{raw[:80]} may run a command that cannot be read")
        elif _is_arithmetic(node, raw):
            evaluated = list(_in_arithmetic(raw))
        elif _takes_names(node):
            # Their arguments name variables, and `a[$(id)]` is a name: also where it stands in quotes.
            if _has_hidden_command(node, raw, but=_SEEN):
                found.problems.append(f"{raw[:80]} may run a command that cannot be read")
            evaluated = list(_in_arithmetic(raw)) if _COMPARES.search(raw) else []
        elif node.type == "subscript":
            evaluated = list(_in_arithmetic(raw.partition("[")[2]))
        if any(is_any_dirty or name in dirty or not name.isidentifier() for name in evaluated):
            found.problems.append(f"{raw[:80]} evaluates what a variable holds")
        found.assigned += [name for name in _assigned(node, raw) if not is_harmless(name)]
    return found


def is_harmless(name: str) -> bool:
    """Whether a variable of this name changes nothing about what runs: no `PATH`, no `IFS`, no `https_proxy`."""
    return bool(_PLAIN.fullmatch(name)) and not name.endswith("_proxy")


def _dirty(nodes: list[Node]) -> tuple[set[str], bool]:
    """Variables whose value the text sets to more than a number, and whether any variable may be one."""
    dirty: set[str] = set()
    for node in nodes:
        if node.type == "variable_assignment":
            name, value = node.child_by_field_name("name"), node.child_by_field_name("value")
            if name is not None and not _is_number(value):
                dirty.add(text_of(name).partition("[")[0])
        elif node.type in ("for_statement", "select_statement"):
            variable = node.child_by_field_name("variable")
            values = node.children_by_field_name("value")
            if variable is not None and not (values and all(map(_is_number, values))):
                dirty.add(text_of(variable))
        elif node.type == "expansion" and (parts := _PARTS.fullmatch(text_of(node))) and _is_default(parts[5]):
            dirty.add(parts[3])
        elif node.type == "declaration_command" or (node.type == "command_name" and text_of(node) in _SETTERS):
            return dirty, True
    return dirty, False


def _is_number(node: Node | None) -> bool:
    if node is None:
        return False
    if node.type == "brace_expression":
        return all(child.type == "number" for child in node.named_children)
    return node.type in _NUMERIC or (node.type == "word" and text_of(node).isdigit())


def _evaluated(raw: str) -> Iterator[str]:
    parts = _PARTS.fullmatch(raw)
    if parts is None:
        yield from _NAMES.findall(raw)
        return
    _, indirect, name, subscript, rest = parts.groups()
    is_list = rest in ("@", "*") or subscript in ("[@]", "[*]")
    if (indirect and not is_list) or rest.startswith("@"):
        yield name
    if subscript not in (None, "[@]", "[*]"):
        yield from _in_arithmetic(subscript)
    if rest.startswith(":") and rest[1:2] not in tuple("-=?+"):
        yield from _in_arithmetic(rest)


def _in_arithmetic(raw: str) -> Iterator[str]:
    yield from _POSITIONAL.findall(raw)
    yield from _NAMES.findall(raw)


def _is_arithmetic(node: Node, raw: str) -> bool:
    is_block = node.type == "compound_statement" and raw.startswith("((")
    return node.type in ("arithmetic_expansion", "c_style_for_statement") or is_block


def _is_default(rest: str) -> bool:
    return rest.startswith(("=", ":="))


def _assigned(node: Node, raw: str) -> Iterator[str]:
    if node.type in ("for_statement", "select_statement"):
        variable = node.child_by_field_name("variable")
        if variable is not None:
            yield text_of(variable)
    elif node.type == "expansion" and (parts := _PARTS.fullmatch(raw)) and _is_default(parts[5]):
        yield parts[3]
    elif _is_arithmetic(node, raw):
        header = raw.partition("))")[0] if node.type == "c_style_for_statement" else raw
        yield from (first or second for first, second in _SETS.findall(header))


def _takes_names(node: Node) -> bool:
    if node.type in ("declaration_command", "unset_command", "test_command"):
        return True
    name = node.child_by_field_name("name") if node.type == "command" else None
    return name is not None and text_of(name) in _SETTERS | _TESTS


_SEEN = frozenset({"command_substitution", "arithmetic_expansion", "process_substitution"})
_QUOTED = _SEEN | {"raw_string"}


def _has_hidden_command(node: Node, raw: str, *, but: frozenset[str]) -> bool:
    """Whether a backtick or `$(` stands in `raw` outside of nodes of the kinds `but`."""
    left = raw
    stack = list(node.children)
    while stack:
        child = stack.pop()
        if child.type in but:
            left = left.replace(text_of(child), "", 1)
        else:
            stack.extend(child.children)
    return "`" in left or "$(" in left
