"""Profiles as platform engineers write them: what is refused, and what a profile below another cannot loosen."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ringfence_tools.errors import ProfileInvalid
from ringfence_tools.profile import BUILT_IN, load_profile, parse_profile, pin_profile
from ringfence_tools.profile_checks import profile_tests

HEAD = "apiVersion: ringfence.dev/v1\nkind: Profile\nmetadata: {name: team, owner: platform, version: 1}\n"


def problems_of(text: str) -> str:
    with pytest.raises(ProfileInvalid) as refused:
        parse_profile((HEAD + text).encode(), "team")
    return str(refused.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("colour: red\n", "line 4: colour: no such field"),
        ("rules:\n  - {id: x, allow: [shel]}\n", "line 5"),
        ("rules:\n  - {id: x, allow: [shell], forbid: [files]}\n", "line 5"),
        ("rules:\n  - {id: x, allow: [shell]}\n  - {id: x, allow: [files]}\n", "x"),
        ("budget:\n  run: {usd: -1}\n", "line 5"),
        ("budget:\n  run: {wall: soon}\n", "line 5"),
        ("network:\n  allow: ['http://x/']\n", "line 5"),
        ("extends: absent@1\n", "not found"),
        ("extends: base-restricted@99\n", "is at"),
        ("extends: base-restricted@3\nfour_eyes: false\n", "four eyes"),
        ("extends: base-restricted@3\nrules:\n  - {id: base-metadata, allow: [network]}\n", "cannot be replaced"),
        ("extends: ../other\n", "name a profile and its version"),
        ("a: &a [x]\nb: [*a, *a]\n", "line"),
        ("description: !!python/object:os.system x\n", "line 4"),
        ("description: one\ndescription: two\n", "line 5"),
        ("\tdescription: x\n", "line 4"),
    ],
)
def test_a_profile_that_cannot_hold_is_refused_with_its_line(text: str, says: str) -> None:
    assert says in problems_of(text)


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"- a\n- b\n", b"x" * (2 << 20), b"kind: Profile\n"])
def test_what_is_no_profile_is_refused(body: bytes) -> None:
    with pytest.raises(ProfileInvalid):
        parse_profile(body, "x")


def test_a_profile_that_extends_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "team.yaml").write_text(HEAD + "extends: team@1\n")
    with pytest.raises(ProfileInvalid, match="extends itself"):
        load_profile("team", [tmp_path])


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_built_in_profiles_pass_their_own_tests(name: str) -> None:
    outcomes = profile_tests(load_profile(name))
    assert outcomes
    assert [each for each in outcomes if not each.is_passed] == []


def test_a_failing_test_says_what_the_profile_does_instead() -> None:
    text = "rules:\n  - {id: inside, allow: [shell]}\ntests:\n  - {call: 'shell ls', expect: forbid}\n"
    (outcome,) = profile_tests(parse_profile((HEAD + text).encode(), "team"))
    assert (outcome.is_passed, outcome.expected, outcome.actual) == (False, "forbid", "allow")


def test_a_pinned_profile_reads_back_as_the_same_wherever_it_is(tmp_path: Path) -> None:
    (tmp_path / "team.yaml").write_text(HEAD + "extends: default@1\nnetwork: {allow: [pypi.example.org]}\n")
    pinned = pin_profile("team", [tmp_path])
    whole = load_profile("team", [tmp_path]).model_copy(update={"extends": None})
    assert parse_profile(pinned.encode(), "team") == whole
    assert "extends" not in pinned


def test_what_a_base_forbids_stays_forbidden_below_it() -> None:
    text = "extends: base-restricted@3\nrules:\n  - {id: mine, allow: [network], hosts: ['169.254.169.254']}\n"
    text += "tests:\n  - {call: 'network GET http://169.254.169.254/', expect: forbid}\n"
    outcomes = profile_tests(parse_profile((HEAD + text).encode(), "team"))
    assert all(each.is_passed for each in outcomes)


def test_the_profile_of_the_documentation_passes_its_own_tests() -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "profiles.md"
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    outcomes = profile_tests(parse_profile(text.encode(), "python-service"))
    assert len(outcomes) > 3
    assert [each for each in outcomes if not each.is_passed] == []


def test_a_version_that_a_profile_does_not_have_is_refused_where_it_is_named() -> None:
    with pytest.raises(ProfileInvalid, match="no such version; that profile is at default v1"):
        load_profile("default@99")
    assert load_profile("default@1").metadata.version == 1


@pytest.mark.parametrize("base", ["other.yaml", "a/b", "default@x"])
def test_what_is_extended_is_a_name_and_a_number(base: str) -> None:
    assert "such as base-restricted@3" in problems_of(f"extends: {base}\n").replace("as in", "such as")


def test_what_is_published_counts_before_a_file_and_before_what_is_built_in(tmp_path: Path) -> None:
    (tmp_path / "team.yaml").write_text(HEAD + "description: of the file\n")
    texts = {
        "team": HEAD.replace("version: 1", "version: 4") + "description: published\n",
        "default": HEAD.replace("name: team", "name: default").replace("version: 1", "version: 2"),
    }

    def published(name: str, number: int | None) -> str | None:
        return texts.get(name) if number in (None, 2, 4) else None

    assert load_profile("team", [tmp_path], published=published).description == "published"
    assert load_profile("default", published=published).metadata.version == 2
    assert load_profile("default@1", published=published).metadata.version == 1
    below = parse_profile((HEAD + "extends: default@2\n").encode(), "below", published=published)
    assert below.rules == ()
