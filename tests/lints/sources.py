"""What the lints look at: every module of the product, parsed once, with its dotted name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "ringfence_audit": ROOT / "audit" / "ringfence_audit",
    "ringfence_sandbox": ROOT / "sandbox" / "ringfence_sandbox",
    "ringfence_tools": ROOT / "tools" / "ringfence_tools",
    "ringfence_agents": ROOT / "agents" / "ringfence_agents",
    "ringfence": ROOT / "ringfence",
}


@dataclass(frozen=True, slots=True)
class Module:
    name: str
    tree: ast.Module


@dataclass(frozen=True, slots=True)
class Violation:
    module: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {self.reason}"


def parse(name: str, source: str) -> Module:
    return Module(name, ast.parse(source, filename=name))


def modules() -> Iterator[Module]:
    """Every module of the five packages."""
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            yield parse(name, path.read_text(encoding="utf-8"))
