"""What a compiled profile answers. Refusals first."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfence_tools.calls import Access, Decision, Effect, Family
from ringfence_tools.errors import PolicyError
from ringfence_tools.policy import MAX_ACCESSES, Policy
from ringfence_tools.profile import Profile, parse_profile

HEAD = "apiVersion: ringfence.dev/v1\nkind: Profile\nmetadata: {name: p, owner: platform, version: 1}\n"


def make_profile(body: str) -> Profile:
    return parse_profile((HEAD + body).encode(), "p")


def make_policy(body: str, extra: str = "") -> Policy:
    return Policy.compile(make_profile(body), extra_cedar=extra)


def network(resource: str, method: str = "GET", *, sends: bool = False) -> Access:
    return Access(Family.NETWORK, resource, {"method": method, "sends": sends})


def decide(policy: Policy, *accesses: Access) -> Decision:
    return policy.decide("shell", accesses)


NET = """
network: {allow: [pypi.example.org]}
rules:
  - {id: inside, allow: [shell, files]}
  - {id: net-unlisted, ask: [network], who: {any: [team-lead]}, expires: 4h, widest_grant: task}
  - id: upload
    ask: [network]
    methods: [PUT, POST]
    who: {all: [team-lead, security]}
    expires: 1h
    widest_grant: once
  - {id: prod, forbid: [network], hosts: ["*.prod.example.org"], say: Use staging.}
"""


def test_forbid_beats_ask_and_allow_and_says_what_to_do_instead() -> None:
    answer = decide(make_policy(NET), network("db.prod.example.org:443"))
    assert answer.effect is Effect.FORBID
    assert answer.rules == ("prod",)
    assert answer.instead == "Use staging."


@pytest.mark.parametrize(
    "spelling", ["DB.PROD.EXAMPLE.ORG:443", "db.prod.example.org.:443", "db。prod.example.org:443"]
)
def test_another_spelling_of_a_forbidden_host_is_forbidden(spelling: str) -> None:
    assert decide(make_policy(NET), network(spelling)).effect is Effect.FORBID


@pytest.mark.parametrize("address", ["2852039166:80", "0xa9.0xfe.0xa9.0xfe:80", "[::ffff:169.254.169.254]:80"])
def test_a_disguised_address_is_the_address(address: str) -> None:
    policy = make_policy("rules: [{id: meta, forbid: [network], hosts: [169.254.169.254]}]")
    assert decide(policy, network(address)).rules == ("meta",)


@pytest.mark.parametrize(
    "resource", ["", "nohost", "h:99999", "h:0", "a b:1", "\udcff:1", ":443", "h:443:1", "h:" + "9" * 9]
)
def test_an_unreadable_network_resource_is_forbidden(resource: str) -> None:
    policy = make_policy('rules: [{id: all, allow: [network], hosts: ["*"]}]')
    assert decide(policy, network(resource)).effect is Effect.FORBID


def test_the_strictest_access_decides_the_call() -> None:
    policy = make_policy(NET)
    assert decide(policy, Access(Family.SHELL, "ls")).effect is Effect.ALLOW
    asked = decide(policy, Access(Family.SHELL, "ls"), network("example.net:443"))
    assert asked.effect is Effect.ESCALATE
    assert asked.escalating == (network("example.net:443"),)
    mixed = decide(policy, network("example.net:443"), network("x.prod.example.org:1"), Access(Family.SHELL, "ls"))
    assert mixed.effect is Effect.FORBID


def test_an_unconditional_ask_leaves_listed_hosts_alone_but_a_conditional_one_does_not() -> None:
    policy = make_policy(NET)
    assert decide(policy, network("pypi.example.org:443")).effect is Effect.ALLOW
    assert decide(policy, network("pypi.example.org:443", "PUT")).rules == ("upload",)


def test_several_asks_at_once_need_the_people_of_all_of_them() -> None:
    answer = decide(make_policy(NET), network("example.net:443", "POST"))
    assert answer.rules == ("net-unlisted", "upload")
    assert answer.terms is not None
    assert set(answer.terms.all_of) == {"team-lead", "security"}
    assert answer.terms.ttl_s == 3600
    assert answer.terms.widest_grant == "once"


def test_what_no_rule_matches_asks_the_owner_or_is_forbidden() -> None:
    asked = decide(make_policy("unmatched: ask"), Access(Family.CLUSTER, "get pods a/b"))
    assert (asked.effect, asked.rules) == (Effect.ESCALATE, ("unmatched",))
    assert asked.terms is not None
    assert asked.terms.any_of == ("platform",)
    assert decide(make_policy("unmatched: forbid"), Access(Family.CLUSTER, "get pods a/b")).effect is Effect.FORBID


def test_a_call_without_accesses_is_decided_as_its_tool() -> None:
    policy = make_policy("unmatched: forbid\nrules: [{id: t, allow: [tool], tools: [lint]}]")
    assert policy.decide("deploy", ()).effect is Effect.FORBID
    assert policy.decide("lint", ()).effect is Effect.ALLOW


def test_a_tool_access_is_decided_by_its_own_name_not_the_callers() -> None:
    policy = make_policy("unmatched: forbid\nrules: [{id: t, allow: [tool], tools: [lint]}]")
    assert policy.decide("lint", (Access(Family.TOOL, "deploy"),)).effect is Effect.FORBID


def test_asking_people_is_always_open() -> None:
    assert make_policy("unmatched: forbid").decide("ask_human", (Access(Family.PEOPLE, "?"),)).effect is Effect.ALLOW


def test_too_many_accesses_are_forbidden() -> None:
    policy = make_policy("rules: [{id: a, allow: [shell]}]")
    accesses = (Access(Family.SHELL, "ls"),) * (MAX_ACCESSES + 1)
    assert policy.decide("shell", accesses).effect is Effect.FORBID


@pytest.mark.parametrize(
    "path", ["/workspace/../etc/passwd", "/etc/passwd", "//etc/passwd", "/workspacex/a", "/workspace/a/../.."]
)
def test_a_bare_allow_of_files_ends_at_the_workspace(path: str) -> None:
    policy = make_policy("unmatched: forbid\nrules: [{id: inside, allow: [files]}]")
    assert decide(policy, Access(Family.FILES, path, {"write": False})).effect is Effect.FORBID


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "", "a\0b", ".", "a" * 5000])
def test_a_patch_path_that_leaves_the_repository_is_forbidden(path: str) -> None:
    assert (
        decide(make_policy("rules: [{id: d, allow: [deliver]}]"), Access(Family.DELIVER, path)).effect is Effect.FORBID
    )


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        (".github/**", [".github/a", ".github/a/b", ".github"], ["x/.github/a", ".githubx/a"]),
        ("**/requirements*.txt", ["requirements.txt", "a/b/requirements-dev.txt"], ["requirements/x.md", "a.txt"]),
        ("src/*.py", ["src/a.py"], ["src/a/b.py", "a.py"]),
        ("**/a/b", ["a/b", "x/a/b", "x/y/a/b"], ["a/b/c", "xa/b"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["ab", "a/xb"]),
        (".git*/**", [".github/x", ".gitx"], ["a/.github/x", "a.git/x", "src/.git/x"]),
        ("**/.git/**", [".git/config", "sub/.git/hooks/x"], [".gitignore", "a.git/x"]),
        ("*", ["a"], ["a/b"]),
        ("**", ["a", "a/b"], []),
    ],
)
def test_a_glob_means_what_it_says(pattern: str, matching: list[str], other: list[str]) -> None:
    policy = make_policy(f'unmatched: forbid\nrules: [{{id: d, allow: [deliver], paths: ["{pattern}"]}}]')
    assert [path for path in other if decide(policy, Access(Family.DELIVER, path)).effect is Effect.ALLOW] == []
    assert [path for path in matching if decide(policy, Access(Family.DELIVER, path)).effect is not Effect.ALLOW] == []


@pytest.mark.parametrize("pattern", ["a/*b/**", "**/a*/b", "**/x/*.py"])
def test_an_allow_that_cedar_would_widen_is_refused_and_a_forbid_errs_wide(pattern: str) -> None:
    with pytest.raises(PolicyError, match="write the folder out"):
        make_policy(f'rules: [{{id: d, allow: [deliver], paths: ["{pattern}"]}}]')
    make_policy(f'rules: [{{id: d, forbid: [deliver], paths: ["{pattern}"]}}]')


@pytest.mark.parametrize(
    "cedar",
    [
        "permit(principal, action, resource)",
        "permit(principal, action, resource);",
        '@id("a") permit(principal, action, resource); @id("a") permit(principal, action, resource);',
        '@id("a") permit(principal, action, resource) when { context.nothing == 1 };',
        '@id("a") permit(principal, action == Action::"network", resource) when { context.host > 1 };',
        '@id("a") @escalete("x") forbid(principal, action, resource);',
        '@id("a") @escalate("x") permit(principal, action, resource);',
        '@id("a") @escalate("") forbid(principal, action, resource);',
        '@id("a") @escalate("x") @approvals("2") forbid(principal, action, resource);',
        '@id("a") @escalate("x") @ttl("-1") forbid(principal, action, resource);',
        '@id("error") forbid(principal, action, resource);',
        '@id("a") permit(principal == ?principal, action, resource);',
    ],
)
def test_raw_cedar_that_is_not_exact_is_refused(cedar: str) -> None:
    with pytest.raises(PolicyError):
        make_policy("unmatched: ask", cedar)


def test_a_rule_that_errors_in_the_engine_forbids() -> None:
    policy = make_policy(
        'rules: [{id: n, allow: [network], hosts: ["*"]}]',
        '@id("over") forbid(principal, action == Action::"network", resource)'
        " when { context.port * 9223372036854775807 > 1 };",
    )
    answer = decide(policy, network("example.org:443"))
    assert (answer.effect, answer.rules) == (Effect.FORBID, ("error",))


def test_raw_cedar_can_ask_named_people() -> None:
    cedar = '@id("x") @escalate("a,b") @all("c") @ttl("60") @widest("once") forbid(principal, action, resource);'
    terms = decide(make_policy("unmatched: ask", cedar), network("example.org:443")).terms
    assert terms is not None
    assert (terms.any_of, terms.all_of, terms.ttl_s, terms.widest_grant) == (("a", "b"), ("c",), 60, "once")


def test_the_version_names_the_policy_and_changes_with_it() -> None:
    assert make_policy(NET).version == make_policy(NET).version
    versions = {make_policy(body).version for body in (NET, "unmatched: forbid", "unmatched: ask")}
    assert len(versions) == 3


HOSTS = ["a.example.org", "b.example.org", "x.prod.example.org", "10.0.0.1"]
ACCESSES = st.one_of(
    st.builds(network, st.sampled_from([f"{host}:443" for host in HOSTS]), st.sampled_from(["GET", "PUT", "CONNECT"])),
    st.builds(Access, st.just(Family.DELIVER), st.sampled_from(["a", ".github/x", "b/c.txt"])),
    st.builds(Access, st.just(Family.FILES), st.sampled_from(["/workspace/a", "/etc/passwd", "/workspace/b/c.txt"])),
)
ALLOWS = st.sampled_from(
    [
        '{id: ID, allow: [network], hosts: ["*.example.org"]}',
        "{id: ID, allow: [deliver, files]}",
        "{id: ID, allow: [network], methods: [GET]}",
        '{id: ID, ask: [network], hosts: ["b.example.org"], who: {any: [x]}}',
        '{id: ID, ask: [deliver], paths: ["**/*.txt"], who: {any: [x]}}',
    ]
)
FORBIDS = st.sampled_from(
    [
        "{id: ID, forbid: [network], methods: [PUT]}",
        '{id: ID, forbid: [network], hosts: ["*.prod.example.org", "10.0.0.1"]}',
        '{id: ID, forbid: [files, deliver], paths: ["**/c.txt"]}',
        "{id: ID, forbid: [deliver]}",
    ]
)
STRICTNESS = {Effect.ALLOW: 0, Effect.ESCALATE: 1, Effect.FORBID: 2}


def rules_of(texts: list[str]) -> str:
    return "rules:\n" + "".join(f"  - {text.replace('ID', f'r{i}')}\n" for i, text in enumerate(texts))


@settings(max_examples=40, deadline=None)
@given(
    rules=st.lists(st.one_of(ALLOWS, FORBIDS), min_size=1, max_size=4),
    forbid=FORBIDS,
    accesses=st.lists(ACCESSES, min_size=1, max_size=4),
)
def test_adding_a_forbid_never_allows_more(rules: list[str], forbid: str, accesses: list[Access]) -> None:
    before = decide(make_policy(rules_of(rules)), *accesses)
    after = decide(make_policy(rules_of([*rules, forbid])), *accesses)
    assert STRICTNESS[after.effect] >= STRICTNESS[before.effect]


@settings(max_examples=40, deadline=None)
@given(rules=st.lists(ALLOWS, min_size=1, max_size=3), first=ACCESSES, more=st.lists(ACCESSES, max_size=3))
def test_adding_an_access_never_allows_more(rules: list[str], first: Access, more: list[Access]) -> None:
    policy = make_policy(rules_of(rules))
    assert STRICTNESS[decide(policy, first, *more).effect] >= STRICTNESS[decide(policy, first).effect]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60), st.sampled_from(list(Family)), st.dictionaries(st.text(max_size=8), st.text(max_size=8)))
def test_hostile_text_is_answered_and_never_raises(text: str, family: Family, attributes: dict[str, str]) -> None:
    policy = make_policy(NET + "unmatched: forbid\n")
    assert policy.decide(text, (Access(family, text, attributes),)).effect in set(Effect)
