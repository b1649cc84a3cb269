"""What one profile allows that another does not: nothing that differs is passed over, no widening is told as less."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence_tools.calls import Effect
from ringfence_tools.policy import Policy
from ringfence_tools.profile import BUILT_IN, Profile, load_profile, parse_profile
from ringfence_tools.profile_changes import Change, Direction, changes
from ringfence_tools.profile_checks import accesses_of_words

HEAD = "apiVersion: ringfence.dev/v1\nkind: Profile\nmetadata: {name: team, owner: platform, version: 1}\n"
MORE, LESS, OTHER = Direction


def profile(text: str) -> Profile:
    return parse_profile((HEAD + text).encode(), "team")


def rules(*lines: str) -> str:
    return "rules:\n" + "".join(f"  - {{{line}}}\n" for line in lines)


CASES = [
    ("network: {allow: [a.example]}\n", "network: {allow: [a.example, b.example]}\n", "b.example"),
    ("", "network: {credentials: [{host: a.example, from: 'env:TOKEN'}]}\n", "a.example"),
    ("", "sandbox: {reduced: true}\n", "lacks a layer"),
    ("", "sandbox: {mounts: [{source: /srv/data, target: /data}]}\n", "/srv/data"),
    ("four_eyes: true\n", "", "may approve"),
    ("unmatched: forbid\n", "", "put to people"),
    ("budget: {run: {usd: 3}}\n", "budget: {run: {usd: 4}}\n", "$4"),
    ("budget: {run: {usd: 3}}\n", "", "no limit"),
    ("teams: [payments]\n", "teams: [payments, search]\n", "search"),
    ("teams: [payments]\n", "", "every team"),
    (rules("id: a, forbid: [network]"), "", "no longer: a"),
    (rules("id: a, forbid: [network]"), rules("id: a, allow: [network]"), "now: a"),
    (
        rules("id: a, forbid: [network], hosts: [x.example, y.example]"),
        rules("id: a, forbid: [network], hosts: [x.example]"),
        "y.example",
    ),
    (rules("id: a, allow: [network], hosts: [x.example]"), rules("id: a, allow: [network]"), "now: a"),
    (
        rules("id: a, ask: [network], who: {any: [x]}, widest_grant: once"),
        rules("id: a, ask: [network], who: {any: [x]}, widest_grant: task"),
        "rest of the task",
    ),
    (
        rules("id: a, ask: [network], who: {any: [x]}, four_eyes: true"),
        rules("id: a, ask: [network], who: {any: [x]}, four_eyes: false"),
        "may approve it",
    ),
]


@pytest.mark.parametrize(("strict", "loose", "says"), CASES)
def test_what_opens_something_is_more_and_the_way_back_is_less(strict: str, loose: str, says: str) -> None:
    there, back = changes(profile(strict), profile(loose)), changes(profile(loose), profile(strict))
    assert {one.direction for one in there} == {MORE}, there
    assert {one.direction for one in back} == {LESS}, back
    assert any(says in one.text for one in there), there


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (rules("id: a, ask: [network], who: {any: [x]}"), rules("id: a, ask: [network], who: {any: [y]}"), "put to y"),
        (rules("id: a, forbid: [network], say: one"), rules("id: a, forbid: [network], say: two"), "told two"),
        ("", "model: {name: coder}\n", "coder"),
        ("", "audit: {keep: 30d}\n", "audit.keep"),
        ("", "sandbox: {setup: ['pip install x']}\n", "pip install x"),
        ("", "network: {opened: [a.example]}\n", "a.example"),
        ("", "cedar: '@id(\"x\") permit (principal, action, resource);'\n", "permit"),
        ("unmatched: forbid\n", "unmatched: forbid\n" + rules("id: a, ask: [shell], who: {any: [x]}"), "now: a"),
    ],
)
def test_what_is_neither_is_told_all_the_same(before: str, after: str, says: str) -> None:
    found = changes(profile(before), profile(after))
    assert any(one.direction is OTHER and says in one.text for one in found), found


def test_a_rule_that_moves_to_other_hosts_is_told_on_both_sides() -> None:
    found = changes(
        profile(rules("id: a, allow: [network], hosts: [x.example]")),
        profile(rules("id: a, allow: [network], hosts: [y.example]")),
    )
    assert found == (
        Change(MORE, "now: a: network to y.example is allowed"),
        Change(LESS, "no longer: a: network to x.example is allowed"),
    )


def test_a_wider_rule_tells_its_terms_too() -> None:
    found = changes(
        profile(rules("id: a, ask: [network], hosts: [x.example], who: {any: [x]}, widest_grant: once")),
        profile(rules("id: a, ask: [network], who: {any: [x]}, widest_grant: task")),
    )
    assert [one.direction for one in found] == [MORE, LESS]
    assert "rest of the task" in found[0].text


def test_calls_of_either_profiles_tests_that_end_otherwise_are_named() -> None:
    before = profile("tests: [{call: 'network GET https://example.org/', expect: ask}]\n")
    found = changes(before, profile(rules("id: net, allow: [network]")))
    assert found[0] == Change(MORE, "`network GET https://example.org/`: ask before, allow now")


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_same_profile_under_another_version_decides_alike(name: str) -> None:
    found = load_profile(name)
    later = found.model_copy(update={"metadata": found.metadata.model_copy(update={"version": 99})})
    assert changes(found, later) == ()


_FORBID = st.sampled_from(["id: f, forbid: [network], hosts: [a.example]", "id: f, forbid: [shell]", ""])
_ASK = st.sampled_from(["id: k, ask: [network], who: {any: [x]}", "id: k, ask: [shell], who: {any: [x]}", ""])
_ALLOW = st.sampled_from(["id: w, allow: [network, shell]", "id: w, allow: [network], hosts: [a.example]", ""])
_CALLS = ("network GET https://a.example/", "network GET https://b.example/", "shell ls")


@given(st.tuples(_FORBID, _ASK, _ALLOW), st.tuples(_FORBID, _ASK, _ALLOW), st.sampled_from(["ask", "forbid"]))
def test_a_call_that_becomes_easier_is_never_left_out(
    old: tuple[str, ...], new: tuple[str, ...], unmatched: str
) -> None:
    strict = {Effect.ALLOW: 0, Effect.ESCALATE: 1, Effect.FORBID: 2}
    head = f"unmatched: {unmatched}\n"
    before, after = (profile(head + rules(*filter(None, one))) if any(one) else profile(head) for one in (old, new))
    found = {one.direction for one in changes(before, after)}
    for call in _CALLS:
        ends = [
            strict[Policy.compile(one).decide(call.split(" ", 1)[0], accesses_of_words("p", call)).effect]
            for one in (before, after)
        ]
        if ends[1] < ends[0]:
            assert found - {LESS}, (call, before.rules, after.rules)
