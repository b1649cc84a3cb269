"""`ringfence profile`: write, test, compare and publish what agents may do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.commands.options import Json, ReasonOption

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ringfence.profile_shelf import Shelf
    from ringfence.render import Output, Span
    from ringfence_tools.profile import Profile
    from ringfence_tools.profile_changes import Change
    from ringfence_tools.profile_checks import TestOutcome

group = typer.Typer(no_args_is_help=True, help="Write, test, diff and publish what agents may do.")

ProfileArgument = Annotated[
    str,
    typer.Argument(metavar="PROFILE", help="A profile's name, one of its versions (NAME@3), or the path of its file."),
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A profile's name.")]


@group.command("list")
def list_(is_json: Json = False) -> None:
    """Show the profiles there are."""
    from ringfence.profile_shelf import open_shelf
    from ringfence.render import make_output

    output = make_output(is_json=is_json)
    rows: list[list[Span]] = []
    with open_shelf(is_json=is_json) as shelf:
        for one in shelf.listed():
            output.record(
                {
                    "type": "profile",
                    "name": one.name,
                    "place": one.place,
                    "version": one.version,
                    "description": one.description,
                    "teams": list(one.teams),
                    "problem": one.problem,
                    "passed_over": one.passed_over,
                }
            )
            said: Span = (one.problem, "bad") if one.problem else one.description
            version = "" if one.version is None else f"v{one.version}"
            rows.append([(one.name, "name"), version, one.place, ", ".join(one.teams) or "every team", said])
    output.table(("PROFILE", "VERSION", "PLACE", "TEAMS", "FOR"), rows)


@group.command()
def show(name: ProfileArgument, is_json: Json = False) -> None:
    """Show a profile as it counts, with what it extends merged in."""
    import json

    from ringfence.api.catalogue import as_yaml
    from ringfence.profile_shelf import open_shelf
    from ringfence.render import make_output
    from ringfence_tools.policy import Policy
    from ringfence_tools.profile import parse_profile

    with open_shelf(is_json=is_json) as shelf:
        text = shelf.document(name)
    version = Policy.compile(parse_profile(text.encode(), name)).version
    output = make_output(is_json=is_json)
    output.record({"type": "profile", "policy_version": version, "document": json.loads(text)})
    output.line(("policy version ", "dim"), version)
    output.block(as_yaml(text))


@group.command()
def test(name: ProfileArgument, is_json: Json = False) -> None:
    """Run a profile's own tests."""
    from ringfence.profile_shelf import open_shelf
    from ringfence.render import make_output
    from ringfence_tools.profile_checks import profile_tests

    output = make_output(is_json=is_json)
    with open_shelf(is_json=is_json) as shelf:
        outcomes = profile_tests(_load(shelf, name))
    if _told_tests(output, outcomes):
        raise typer.Exit(1)


@group.command()
def explain(name: ProfileArgument, is_json: Json = False) -> None:
    """Say in plain words what a profile allows, asks and forbids."""
    from ringfence.profile_shelf import open_shelf
    from ringfence.render import make_output
    from ringfence_tools.profile_words import explain as explained

    output = make_output(is_json=is_json)
    with open_shelf(is_json=is_json) as shelf:
        text = explained(_load(shelf, name))
    output.record({"type": "explanation", "profile": name, "text": text})
    output.block(text)


@group.command("try")
def try_(
    name: ProfileArgument,
    call: Annotated[str, typer.Argument(help="Such as 'network GET https://example.org/'.")],
    is_json: Json = False,
) -> None:
    """Say what would happen if an agent asked for something; nothing is asked or run."""
    from ringfence.profile_shelf import open_shelf
    from ringfence.render import make_output
    from ringfence_tools.policy import Policy
    from ringfence_tools.profile_checks import EFFECT_WORDS, accesses_of_words

    output = make_output(is_json=is_json)
    with open_shelf(is_json=is_json) as shelf:
        profile = _load(shelf, name)
    decided = Policy.compile(profile).decide(call.split(" ", 1)[0], accesses_of_words(profile.title, call))
    word = EFFECT_WORDS[decided.effect]
    asked = [*decided.terms.all_of, *decided.terms.any_of] if decided.terms else []
    output.record(
        {
            "type": "decision",
            "effect": word,
            "rules": list(decided.rules),
            "reason": decided.reason,
            "instead": decided.instead,
            "groups": asked,
        }
    )
    spans: dict[str, Span] = {"allow": ("allow", "good"), "ask": ("ask", "wait"), "forbid": ("forbid", "bad")}
    output.line(spans[word], f": {decided.reason}", f" · {', '.join(asked)}" if asked else "")
    if decided.instead:
        output.line(decided.instead)


@group.command()
def diff(
    before: ProfileArgument,
    after: Annotated[str, typer.Argument(metavar="OTHER", help="The profile, or version, to compare it with.")],
    is_json: Json = False,
) -> None:
    """Say what the second profile allows more, and what less, than the first."""
    from ringfence.profile_shelf import open_shelf
    from ringfence.render import make_output
    from ringfence_tools.profile_changes import changes

    output = make_output(is_json=is_json)
    with open_shelf(is_json=is_json) as shelf:
        _told_changes(output, changes(_load(shelf, before), _load(shelf, after)))


@group.command()
def versions(name: NameArgument, is_json: Json = False) -> None:
    """Show what was published under a name: who, when and why."""
    from ringfence.profile_shelf import open_shelf
    from ringfence.render import make_output
    from ringfence_tools.clock import moment

    output = make_output(is_json=is_json)
    with open_shelf(is_json=is_json) as shelf:
        found = shelf.versions(name)
    rows: list[list[Span]] = []
    for one in found:
        at = moment(one.published_at).isoformat(timespec="seconds")
        output.record(
            {
                "type": "profile_version",
                "name": one.name,
                "number": one.number,
                "digest": one.digest,
                "teams": list(one.teams),
                "published_by": one.published_by,
                "published_at": at,
                "reason": one.reason,
            }
        )
        by = one.published_by.removeprefix("person:")
        rows.append([(f"{one.name}@{one.number}", "name"), at, by, one.digest[:16], one.reason])
    if not found:
        output.line("Nothing was published under this name: ", ("ringfence profile publish FILE", "name"))
        return
    output.table(("VERSION", "PUBLISHED", "BY", "DIGEST", "WHY"), rows)


@group.command()
def uses(name: NameArgument, is_json: Json = False) -> None:
    """Show which teams' live runs keep which version of a profile."""
    from ringfence.profile_shelf import open_shelf
    from ringfence.render import make_output

    output = make_output(is_json=is_json)
    with open_shelf(is_json=is_json) as shelf:
        found = shelf.uses(name)
    rows: list[list[Span]] = []
    for one in found.teams:
        output.record(
            {
                "type": "profile_use",
                "team": one.team,
                "version": one.version,
                "is_published": one.is_published,
                "runs": one.runs,
            }
        )
        rows.append(
            [one.team or "no team", f"v{one.version}", str(one.runs), "" if one.is_published else "not published"]
        )
    if not rows:
        output.line("No live run.")
        return
    output.table(("TEAM", "VERSION", "LIVE RUNS", ""), rows)
    output.line("Each run keeps the version that it started with.")


@group.command()
def publish(
    path: Annotated[Path, typer.Argument(help="The profile's file.")],
    reason: ReasonOption = "",
    is_check: Annotated[bool, typer.Option("--check", help="Only show its tests and what would change.")] = False,
    is_json: Json = False,
) -> None:
    """Publish a version of a profile, for good; its own tests have to pass."""
    from ringfence.errors import Mistake
    from ringfence.profile_shelf import open_shelf, source_at
    from ringfence.render import make_output

    if not is_check and not reason.strip():
        raise Mistake("publishing needs a reason", fix='Add --reason "…": it stands beside the version')
    output = make_output(is_json=is_json)
    source = source_at(path)
    with open_shelf(is_json=is_json) as shelf:
        checked = shelf.check(source)
        if is_check:
            failed = _told_tests(output, checked.tests)
            _told_changes(output, checked.changes)
            if failed:
                raise typer.Exit(1)
            return
        made = shelf.publish(source, reason)
    version = made.version
    output.record(
        {
            "type": "published",
            "name": version.name,
            "number": version.number,
            "digest": version.digest,
            "is_new": made.is_new,
        }
    )
    if not made.is_new:
        output.line((f"{version.name}@{version.number}", "name"), " is published already; nothing was done")
        return
    if checked.since or checked.changes:
        _told_changes(output, checked.changes)
    output.line(("published ", "good"), (f"{version.name}@{version.number}", "name"), (f" · {version.digest}", "dim"))
    output.line("It is for the runs that begin now; those under way keep their version.")


@group.command()
def write(
    path: Annotated[Path, typer.Argument(help="The file to write, such as team.yaml.")],
    is_json: Json = False,
) -> None:
    """Write a profile to start from; it passes its own tests."""
    from ringfence.errors import Mistake
    from ringfence.render import make_output
    from ringfence_tools.profile_skeleton import skeleton

    if path.suffix not in (".yaml", ".yml"):
        raise Mistake(f"{path} does not end in .yaml", fix="Profiles are YAML files")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(skeleton(_name_of(path)))
    except FileExistsError as error:
        raise Mistake(f"{path} exists already", fix="Choose another name") from error
    output = make_output(is_json=is_json)
    output.record({"type": "profile", "name": _name_of(path), "place": str(path)})
    output.line(("wrote ", "good"), (str(path), "name"))
    output.line("Next: ", (f"ringfence profile test {path}", "name"))


def _told_tests(output: Output, outcomes: Iterable[TestOutcome]) -> int:
    """Print each; return how many failed."""
    passed = failed = 0
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
        passed, failed = passed + each.is_passed, failed + (not each.is_passed)
    output.line(f"{passed} passed, {failed} failed")
    return failed


def _told_changes(output: Output, found: Iterable[Change]) -> None:
    titles = {"more": "allows more", "less": "allows less", "other": "reads otherwise"}
    last = ""
    for each in found:
        output.record({"type": "difference", "direction": each.direction.value, "text": each.text})
        if each.direction != last:
            output.line((titles[each.direction], "bold"))
        last = each.direction.value
        output.line("  ", each.text)
    if not last:
        output.line("They decide alike.")


def _name_of(path: Path) -> str:
    word = "".join(character if character.isascii() and character.isalnum() else "-" for character in path.stem.lower())
    return word.strip("-")[:63] or "profile"


def _load(shelf: Shelf, name: str) -> Profile:
    from ringfence_tools.profile import parse_profile

    return parse_profile(shelf.document(name).encode(), name)
