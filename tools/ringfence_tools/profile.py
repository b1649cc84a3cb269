"""Loading profiles: find, read, merge what they extend, check. The result is whole and frozen.

A name stands for what was published under it (`profile_versions`); where nothing was, for a file in `search`, and then
for what is built in. So no file that is placed later takes the place of what was published.

`extends` may add and refine, and may replace a base's allow or ask rule by its id. It can never loosen: a forbid
rule of the base cannot be replaced, and `unmatched: forbid`, `four_eyes: true` and the base's raw Cedar stay.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TypeAlias

from pydantic import ValidationError

from ringfence_tools.errors import ProfileInvalid
from ringfence_tools.profile_model import Profile, Rule
from ringfence_tools.profile_text import MAX_BYTES, Document, Plain, read_document

__all__ = [
    "BUILT_IN",
    "Profile",
    "Published",
    "Rule",
    "load_profile",
    "parse_profile",
    "pin_profile",
    "pin_text",
]

BUILT_IN = ("default", "base-restricted")
MAX_BASES = 8
Published: TypeAlias = Callable[[str, int | None], str | None]
"""The document of a published version of a name, of its newest without a number; None where there is none."""
_ADDED_LISTS = {("network", name) for name in ("allow", "private", "plain", "opened", "credentials")} | {
    ("sandbox", "setup")
}


def _nothing_published(_: str, __: int | None) -> None:
    """Where no database is at hand."""
    return


def load_profile(
    path_or_name: str | Path, search: Sequence[Path] = (), *, published: Published = _nothing_published
) -> Profile:
    """The profile at a path (it ends in .yaml or .yml, or has a slash), or by name: published, in `search`, built in.

    A name may carry a version (`base-restricted@3`), which must then match. Raises `ProfileInvalid`.
    """
    return _whole(str(path_or_name), _Places(tuple(search), published)).profile


def parse_profile(
    raw: bytes, name: str, search: Sequence[Path] = (), *, published: Published = _nothing_published
) -> Profile:
    """A profile from its text; what it extends is looked up as in `load_profile`. Raises `ProfileInvalid`."""
    document = read_document(raw, name)
    return _check(_merged(document, _Places(tuple(search), published), (name,)), document)


def pin_profile(
    path_or_name: str | Path, search: Sequence[Path] = (), *, published: Published = _nothing_published
) -> str:
    """The profile with what it extends merged in, as text that a run keeps: `parse_profile` of it gives the same
    profile wherever and whenever it is read. Of a published version it is the text that was published. Raises
    `ProfileInvalid`."""
    return _pinned(_whole(str(path_or_name), _Places(tuple(search), published)).data)


def pin_text(raw: bytes, name: str, search: Sequence[Path] = (), *, published: Published = _nothing_published) -> str:
    """As `pin_profile`, of a profile's text; what it extends is looked up as there. Raises `ProfileInvalid`."""
    document = read_document(raw, name)
    data = _merged(document, _Places(tuple(search), published), (name,))
    _check(data, document)
    return _pinned(data)


def _pinned(data: Mapping[str, Plain]) -> str:
    own = {key: value for key, value in data.items() if key != "extends"}
    return json.dumps(own, ensure_ascii=False, default=str)


@dataclass(frozen=True, slots=True)
class _Places:
    """Where a name is looked up."""

    search: tuple[Path, ...]
    published: Published

    def around(self, directory: Path | None) -> _Places:
        """For what a file extends: beside it first."""
        return self if directory is None else _Places((directory, *self.search), self.published)


@dataclass(frozen=True, slots=True)
class _Whole:
    data: dict[str, Plain]
    profile: Profile


def _whole(wanted: str, places: _Places) -> _Whole:
    data, document = _load(wanted, places, ())
    profile = _check(data, document)
    version = "" if _is_path(wanted) else wanted.partition("@")[2]
    if version and version != str(profile.metadata.version):
        raise ProfileInvalid(wanted, [f"there is no such version; that profile is at {profile.title}"])
    return _Whole(data, profile)


def _load(wanted: str, places: _Places, chain: tuple[str, ...]) -> tuple[dict[str, Plain], Document]:
    if wanted in chain or len(chain) >= MAX_BASES:
        raise ProfileInvalid(wanted, ["extends itself: " + " → ".join((*chain, wanted))])
    raw, name, directory = _find(wanted, places)
    document = read_document(raw, name)
    return _merged(document, places.around(directory), (*chain, wanted)), document


def _is_path(wanted: str) -> bool:
    return wanted.endswith((".yaml", ".yml")) or "/" in wanted


def _find(wanted: str, places: _Places) -> tuple[bytes, str, Path | None]:
    if _is_path(wanted):
        path = Path(wanted)
        return _read(path, wanted), path.name, path.parent
    name, _, version = wanted.partition("@")
    if version and not (version.isascii() and version.isdigit() and len(version) < 10):
        raise ProfileInvalid(wanted, ["a version is a number, as in base-restricted@3"])
    document = places.published(name, int(version) if version else None)
    if document is not None:
        return document.encode(), name, None
    for directory in places.search:
        for candidate in (directory / f"{name}@{version}.yaml", directory / f"{name}.yaml"):
            if candidate.is_file():
                return _read(candidate, wanted), name, directory
    if name in BUILT_IN:
        return resources.files("ringfence_tools").joinpath("profiles", f"{name}.yaml").read_bytes(), name, None
    folders = ", ".join(str(directory) for directory in places.search) or "no folder"
    raise ProfileInvalid(wanted, [f"not published, not found in {folders}, and not built in ({', '.join(BUILT_IN)})"])


def _read(path: Path, wanted: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ProfileInvalid(wanted, [f"cannot be read ({error.strerror}); check the path {path}"]) from error


def _merged(document: Document, places: _Places, chain: tuple[str, ...]) -> dict[str, Plain]:
    base_name = document.data.get("extends")
    if base_name is None:
        return document.data
    if not isinstance(base_name, str) or _is_path(base_name):
        raise ProfileInvalid(document.name, ["extends: name a profile and its version, such as base-restricted@3"])
    base, base_document = _load(base_name, places, chain)
    # Checked on its own first, so that a broken base is reported as the base's fault.
    checked = _check(base, base_document)
    version = base_name.partition("@")[2]
    if version and version != str(checked.metadata.version):
        raise ProfileInvalid(document.name, [f"extends {base_name}, but that profile is at {checked.title}"])
    problems = _loosened(checked, document.data)
    if problems:
        raise ProfileInvalid(document.name, [f"line {document.line_of(('extends',))}: {text}" for text in problems])
    return _combine(base, document.data)


def _loosened(base: Profile, child: Mapping[str, Plain]) -> list[str]:
    """Which of the base's refusals the child tries to take away."""
    problems = []
    if base.unmatched == "forbid" and child.get("unmatched", "forbid") != "forbid":
        problems.append(f"{base.title} forbids what no rule matches; unmatched cannot be loosened to ask")
    if base.four_eyes and child.get("four_eyes", True) is not True:
        problems.append(f"{base.title} asks for four eyes; that cannot be switched off")
    forbidden = {rule.id for rule in base.rules if rule.effect == "forbid"}
    rules = child.get("rules")
    replaced = [rule["id"] for rule in _dicts(rules) if rule.get("id") in forbidden]
    problems += [f"rule {name} forbids in {base.title} and cannot be replaced; choose another id" for name in replaced]
    return problems


def _combine(base: Mapping[str, Plain], child: Mapping[str, Plain]) -> dict[str, Plain]:
    merged = _deep(base, child, ())
    merged["rules"] = _rules(_dicts(base.get("rules")), _dicts(child.get("rules")), child.get("rules"))
    merged["cedar"] = "\n".join(str(part["cedar"]) for part in (base, child) if part.get("cedar"))
    # A base's refusals stay true below it; what it allows or asks, a child may have settled otherwise.
    kept = [test for test in _dicts(base.get("tests")) if test.get("expect") == "forbid"]
    own = child.get("tests", [])
    merged["tests"] = [*kept, *own] if isinstance(own, list) else own
    return merged


def _rules(base: list[dict[str, Plain]], child: list[dict[str, Plain]], raw: Plain) -> Plain:
    if raw is not None and not isinstance(raw, list):
        return raw
    replaced = {rule.get("id") for rule in child if isinstance(rule.get("id"), str)}
    rest = [item for item in raw or [] if not isinstance(item, dict)]
    return [*(rule for rule in base if rule.get("id") not in replaced), *child, *rest]


def _dicts(value: Plain) -> list[dict[str, Plain]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _deep(base: Mapping[str, Plain], child: Mapping[str, Plain], place: tuple[str, ...]) -> dict[str, Plain]:
    merged = dict(base)
    for key, value in child.items():
        below = merged.get(key)
        here = (*place, key)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[key] = _deep(below, value, here)
        elif here in _ADDED_LISTS and isinstance(below, list) and isinstance(value, list):
            merged[key] = [*below, *(item for item in value if item not in below)]
        else:
            merged[key] = value
    return merged


def _check(data: Mapping[str, Plain], document: Document) -> Profile:
    try:
        return Profile.model_validate(data)
    except ValidationError as error:
        problems = []
        for item in error.errors(include_input=False, include_url=False)[:20]:
            place = tuple(part for part in item["loc"] if isinstance(part, str | int))
            said = item["msg"].removeprefix("Value error, ")
            dotted = ".".join(map(str, place)) or "profile"
            problems.append(f"line {document.line_of(_own_place(place, data, document))}: {dotted}: {_mend(said)}")
        raise ProfileInvalid(document.name, problems) from error


def _own_place(place: tuple[str | int, ...], data: Mapping[str, Plain], document: Document) -> tuple[str | int, ...]:
    """Where a rule of the merged list stands in the document itself; the place unchanged where it was not merged."""
    if len(place) < 2 or not isinstance(place[1], int) or place[0] not in ("rules", "tests"):
        return place
    merged, own = data.get(str(place[0])), document.data.get(str(place[0]))
    if not isinstance(merged, list) or not isinstance(own, list) or place[1] >= len(merged):
        return place
    index = next((i for i, item in enumerate(own) if item is merged[place[1]]), None)
    return place[:1] if index is None else (place[0], index, *place[2:])


def _mend(said: str) -> str:
    return "no such field; remove it or check its spelling" if said == "Extra inputs are not permitted" else said
