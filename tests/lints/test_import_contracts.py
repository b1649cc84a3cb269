"""Each import contract of pyproject.toml is broken on purpose, in a copy, and must be seen to break."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lints.sources import PACKAGES, ROOT

SOURCE_ROOTS = ("audit", "sandbox", "tools", "agents", ".")


@dataclass(frozen=True, slots=True)
class Plant:
    """`importer` gets a line that imports `imported`, which `contract` must refuse."""

    contract: str
    importer: str
    imported: str


def _contracts() -> list[dict[str, object]]:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = document["tool"]["importlinter"]["contracts"]
    assert isinstance(contracts, list)
    return contracts


def _words(value: object) -> list[str]:
    assert isinstance(value, list)
    return [str(word) for word in value]


def _plants() -> list[Plant]:
    """One violation or more for each contract; a kind of contract that is unknown here is an error, not a gap."""
    plants: list[Plant] = []
    for contract in _contracts():
        name = str(contract["name"])
        kind = contract["type"]
        if kind == "layers":
            plants += _layer_plants(name, _words(contract["layers"]))
        elif kind == "forbidden":
            imported = _words(contract["forbidden_modules"])[0]
            plants += [Plant(name, importer, imported) for importer in _words(contract["source_modules"])[:1]]
        elif kind == "protected":
            plants.append(_protected_plant(name, contract))
        else:
            raise AssertionError(f"no planted violation for contracts of type {kind!r}")
    return plants


def _layer_plants(name: str, layers: list[str]) -> list[Plant]:
    rows = [[module.strip() for module in layer.split("|")] for layer in layers]
    upward = [Plant(name, rows[at + 1][0], rows[at][0]) for at in range(len(rows) - 1)]
    sideways = [Plant(name, first, second) for row in rows for first in row for second in row if first != second]
    return upward + sideways


def _protected_plant(name: str, contract: dict[str, object]) -> Plant:
    allowed = _words(contract.get("allowed_importers", []))
    outsider = next(package for package in PACKAGES if not any(a.split(".")[0] == package for a in allowed))
    return Plant(name, outsider, _words(contract["protected_modules"])[0])


def _copy_packages(into: Path) -> None:
    for folder in PACKAGES.values():
        target = into / folder.relative_to(ROOT)
        shutil.copytree(folder, target, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", into)


def _lint(root: Path) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(str(root / source) for source in SOURCE_ROOTS))
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache", "--config", "pyproject.toml"]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("plant", _plants(), ids=lambda plant: f"{plant.importer}->{plant.imported}")
def test_a_planted_import_breaks_its_contract(plant: Plant, tmp_path: Path) -> None:
    _copy_packages(tmp_path)
    package, *rest = plant.importer.split(".")
    module = (tmp_path / PACKAGES[package].relative_to(ROOT)).joinpath(*rest) / "planted.py"
    module.write_text(f"import {plant.imported}\n", encoding="utf-8")
    result = _lint(tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    assert f"{plant.contract} BROKEN" in " ".join(result.stdout.split())


def test_the_product_keeps_every_contract(tmp_path: Path) -> None:
    _copy_packages(tmp_path)
    result = _lint(tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count(" KEPT") == len(_contracts())
