"""`ringfence profile`: write, test and compare what agents may do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.commands.options import Json

if TYPE_CHECKING:
    from ringfence.render import Span
    from ringfence_tools.profile import Profile

group = typer.Typer(no_args_is_help=True, help="Write, test, diff what agents may do.")

ProfileArgument = Annotated[str, typer.Argument(metavar="PROFILE", help="A profile's name, or the path of its file.")]

_SKELETON = """\
# A golden path. `ringfence profile explain` says what it allows; `ringfence profile test` runs its tests.
apiVersion: ringfence.dev/v1
kind: Profile
metadata: {{name: {name}, owner: owner, version: 1}}
description: Say in one line what this profile is for.
extends: default@1
budget:
  run: {{usd: 3, tool_calls: 200, wall: 1h}}
network:
  allow: []                                     # hosts that are open to every run, such as pypi.example.org
rules:                                          # forbid > ask > allow
  - id: no-production
    forbid: [network]
    hosts: ["*.prod.example.org"]
    say: Use the staging fixture instead.
tests:
  - {{call: "shell pytest -q", expect: allow}}
  - {{call: "network GET https://example.org/", expect: ask}}
  - {{call: "network GET https://db.prod.example.org/", expect: forbid}}
"""


@group.command("list")
def list_(is_json: Json = False) -> None:
    """Show the profiles there are."""
    from ringfence.render import make_output
    from ringfence.settings import load_settings
    from ringfence_tools.errors import ProfileInvalid
    from ringfence_tools.profile import BUILT_IN, load_profile

    settings = load_settings()
    output = make_output(is_json=is_json)
    found = dict.fromkeys(BUILT_IN, "built in")
    for folder in settings.profile_search:
        for path in sorted(folder.glob("*.yaml")):
            found[path.stem] = str(path)
    rows: list[list[Span]] = []
    for name, place in sorted(found.items()):
        try:
            profile = load_profile(name, settings.profile_search)
        except ProfileInvalid as error:
            output.record({"type": "profile", "name": name, "place": place, "problem": str(error)})
            rows.append([(name, "name"), "", place, (str(error), "bad")])
            continue
        version, description = profile.metadata.version, profile.description
        output.record({"type": "profile", "name": name, "place": place, "version": version, "description": description})
        rows.append([(name, "name"), f"v{profile.metadata.version}", place, profile.description])
    output.table(("PROFILE", "VERSION", "PLACE", "FOR"), rows)


@group.command()
def show(name: ProfileArgument, is_json: Json = False) -> None:
    """Show a profile as it counts, with what it extends merged in."""
    import json

    from ringfence.render import make_output
    from ringfence.settings import load_settings
    from ringfence_tools.policy import Policy
    from ringfence_tools.profile import parse_profile, pin_profile

    text = pin_profile(name, load_settings().profile_search)
    version = Policy.compile(parse_profile(text.encode(), name)).version
    output = make_output(is_json=is_json)
    output.record({"type": "profile", "policy_version": version, "document": json.loads(text)})
    output.line(("policy version ", "dim"), version)
    output.block(_yaml(json.loads(text)))


@group.command()
def test(name: ProfileArgument, is_json: Json = False) -> None:
    """Run a profile's own tests."""
    from ringfence.render import make_output
    from ringfence_tools.profile_checks import profile_tests

    output = make_output(is_json=is_json)
    outcomes = profile_tests(_load(name))
    failed = [each for each in outcomes if not each.is_passed]
    for each in outcomes:
        output.record(
            {
                "type": "test",
                "call": each.call,
                "expected": each.expected,
                "actual": each.actual,
                "is_passed": each.is_passed,
                "reason": each.reason,
            }
        )
        mark: Span = ("ok    ", "good") if each.is_passed else ("FAILED", "bad")
        said = "" if each.is_passed else f"  expected {each.expected}, is {each.actual}: {each.reason}"
        output.line(mark, "  ", each.call, said)
    output.line(f"{len(outcomes) - len(failed)} passed, {len(failed)} failed")
    if failed:
        raise typer.Exit(1)


@group.command()
def explain(name: ProfileArgument, is_json: Json = False) -> None:
    """Say in plain words what a profile allows, asks and forbids."""
    from ringfence.render import make_output
    from ringfence_tools.profile_words import explain as explained

    output = make_output(is_json=is_json)
    text = explained(_load(name))
    output.record({"type": "explanation", "profile": name, "text": text})
    output.block(text)


@group.command()
def diff(
    before: ProfileArgument,
    after: Annotated[str, typer.Argument(metavar="OTHER", help="The profile to compare it with.")],
    is_json: Json = False,
) -> None:
    """Say what one profile allows that the other does not."""
    from ringfence.render import make_output
    from ringfence_tools.profile_words import diff as difference

    output = make_output(is_json=is_json)
    lines = difference(_load(before), _load(after))
    for each in lines:
        output.record({"type": "difference", "text": each})
        output.line(each)
    if not lines:
        output.line("They decide alike.")


@group.command()
def write(
    path: Annotated[Path, typer.Argument(help="The file to write, such as team.yaml.")],
    is_json: Json = False,
) -> None:
    """Write a profile to start from; it passes its own tests."""
    from ringfence.errors import Mistake
    from ringfence.render import make_output

    if path.suffix not in (".yaml", ".yml"):
        raise Mistake(f"{path} does not end in .yaml", fix="Profiles are YAML files")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(_SKELETON.format(name=_name_of(path)))
    except FileExistsError as error:
        raise Mistake(f"{path} exists already", fix="Choose another name") from error
    output = make_output(is_json=is_json)
    output.record({"type": "profile", "name": _name_of(path), "place": str(path)})
    output.line(("wrote ", "good"), (str(path), "name"))
    output.line("Next: ", (f"ringfence profile test {path}", "name"))


def _name_of(path: Path) -> str:
    word = "".join(character if character.isascii() and character.isalnum() else "-" for character in path.stem.lower())
    return word.strip("-")[:63] or "profile"


def _load(name: str) -> Profile:
    from ringfence.settings import load_settings
    from ringfence_tools.profile import load_profile

    return load_profile(name, load_settings().profile_search)


def _yaml(document: object) -> str:
    import yaml

    return yaml.safe_dump(document, sort_keys=False, allow_unicode=False, width=100)
