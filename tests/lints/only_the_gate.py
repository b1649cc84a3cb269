"""Lint: only the gate runs tools.

`Sandbox.perform` is the one method by which anything acts in a sandbox. Naming it anywhere but in the gate's own
modules, be it as a call, as a reference handed on, or by its name in a string, is a second door.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from tests.lints.sources import Module, Violation

ALLOWED = frozenset({"ringfence_tools.gate", "ringfence_tools.effects", "ringfence_sandbox.cloning"})
"""The gate, the module of its room in which the gate's allowed calls act, and the clone of a URL that a person named:
no tool call, made in a sandbox that no agent ever sees, with its network entries in the log."""

METHOD = "perform"


def violations(modules: Iterable[Module]) -> list[Violation]:
    return [found for module in modules if module.name not in ALLOWED for found in _in_module(module)]


def _in_module(module: Module) -> Iterator[Violation]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and node.attr == METHOD and not _is_delegation(node, module):
            yield Violation(module.name, node.lineno, f"names .{METHOD}: only the gate runs tools")
        elif _is_reflection(node):
            assert isinstance(node, ast.Call)
            yield Violation(module.name, node.lineno, f"reaches {METHOD} by its name: only the gate runs tools")


def _is_delegation(node: ast.Attribute, module: Module) -> bool:
    """A backend's own `perform` that hands on to the class it derives from; only the sandbox room has such classes."""
    is_super = isinstance(node.value, ast.Call) and _called_name(node.value) == "super"
    return is_super and module.name.startswith("ringfence_sandbox.")


def _is_reflection(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and _called_name(node) in {"getattr", "methodcaller", "attrgetter"}
        and any(isinstance(argument, ast.Constant) and argument.value == METHOD for argument in node.args)
    )


def _called_name(call: ast.Call) -> str:
    if isinstance(call.func, ast.Name):
        return call.func.id
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return ""
