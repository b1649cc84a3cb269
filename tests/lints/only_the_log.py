"""Lint: only the log appends entries.

The tables of the audit room are its own: no module outside it may import one, take it out of the metadata, or name it
in a statement. Everyone else writes through `Transaction.record` and reads through the room's query functions.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.lints.sources import Module, Violation

ROOM = "ringfence_audit"
_STATEMENT = re.compile(r"\b(insert|update|delete|replace|drop|alter|truncate|select|from|join)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class LogTables:
    """`variables` hold the Table objects in the audit room; `names` are what the database calls them."""

    variables: frozenset[str]
    names: frozenset[str]


def tables_of(modules: Iterable[Module]) -> LogTables:
    """The tables that the audit room defines, read from its source."""
    variables: set[str] = set()
    names: set[str] = set()
    for module in modules:
        if module.name.split(".")[0] != ROOM:
            continue
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Table":
                names.update(_first_text(node))
            if isinstance(node, ast.Assign) and _is_table(node.value):
                variables.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return LogTables(frozenset(variables), frozenset(names))


def violations(modules: Iterable[Module], tables: LogTables) -> list[Violation]:
    outside = (module for module in modules if module.name.split(".")[0] != ROOM)
    return [found for module in outside for found in _in_module(module, tables)]


def _in_module(module: Module, tables: LogTables) -> Iterator[Violation]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == ROOM:
            for alias in node.names:
                if alias.name in tables.variables:
                    yield Violation(module.name, node.lineno, f"imports the table {alias.name}: only the log appends")
        elif isinstance(node, ast.Subscript) and _text(node.slice) in tables.names and _is_tables(node.value):
            yield Violation(module.name, node.lineno, f"takes {_text(node.slice)} from the metadata")
        elif isinstance(node, ast.Attribute) and node.attr in tables.variables and _is_room_module(node.value):
            yield Violation(module.name, node.lineno, f"names the table {node.attr}: only the log appends")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            named = _named_in_statement(node.value, tables)
            if named:
                yield Violation(module.name, node.lineno, f"names the table {named} in a statement")


def _named_in_statement(text: str, tables: LogTables) -> str:
    for match in _STATEMENT.finditer(text):
        following = text[match.end() :].lstrip()
        following = re.sub(r"^(into|from|table|only)\s+", "", following, flags=re.IGNORECASE)
        word = re.match(r'["`\[]?(\w+)', following)
        is_sql = text[: match.start()].strip() == "" or match.group().lower() in {"from", "join"}
        if is_sql and word is not None and word.group(1) in tables.names and _looks_like_sql(text):
            return word.group(1)
    return ""


def _looks_like_sql(text: str) -> bool:
    return (
        re.match(r"\s*(insert|update|delete|replace|drop|alter|truncate|select|with)\b", text, re.IGNORECASE)
        is not None
    )


def _is_table(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "Table"


def _is_tables(value: ast.expr) -> bool:
    return isinstance(value, ast.Attribute) and value.attr == "tables"


def _is_room_module(value: ast.expr) -> bool:
    """`schema.entries` after `from ringfence_audit import schema`; any plain name before the dot is suspect."""
    return isinstance(value, ast.Name) and value.id in {"schema", "store", "tables", "log"}


def _first_text(call: ast.Call) -> Iterator[str]:
    if call.args and isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, str):
        yield call.args[0].value


def _text(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
