"""The `kubernetes` tools' pure parts: what a call comes down to, manifests, and what people and agents are shown."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence.wiring import cluster_rules_of
from ringfence_sandbox.contract import ClusterRule
from ringfence_sandbox.kubernetes.agent_objects import changes, unasked
from ringfence_sandbox.kubernetes.agent_port import GROUP_OF, Change, DryRun, Right
from ringfence_sandbox.kubernetes.json_value import Json
from ringfence_tools.builtin import kubernetes_words as words
from ringfence_tools.builtin.toolset import builtin_toolbox, toolbox_for
from ringfence_tools.calls import Effect
from ringfence_tools.errors import ProfileInvalid
from ringfence_tools.policy import Policy
from ringfence_tools.profile import Profile, parse_profile
from ringfence_tools.toolbox import ToolRefusal

HEAD = b"apiVersion: ringfence.dev/v1\nkind: Profile\nmetadata: {name: on-cluster, owner: owner, version: 1}\n"
ON_CLUSTER = HEAD + b"sandbox: {kind: kubernetes, image: 'example.org/x:1'}\n"
READS = b"tools: {kubernetes: [{resources: [pods, deployments], verbs: [get, list]}]}\n"
ASKS = b"rules: [{id: ask-cluster, ask: [cluster], who: {any: [owner]}}]\n"


def profile(text: bytes) -> Profile:
    return parse_profile(text, "on-cluster")


# -- manifests -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ("", "one object at a time"),
        ("- a\n", "one object at a time"),
        ("a: 1\n---\nb: 2\n", "one object at a time"),
        ("a: &x [1]\nb: [*x, *x]", "aliases"),
        ("a: !!python/object/apply:os.system [id]", "tags"),
        ("a: [", "no YAML"),
        ("a: 2026-11-24", "no JSON"),
        ("a: .nan", "no JSON"),
        ("a: " + "[" * 60 + "]" * 60, "deep"),
        ("a: " + "[" * 20_000, "deep"),
    ],
)
def test_a_manifest_that_is_not_one_plain_object_is_refused(manifest: str, said: str) -> None:
    with pytest.raises(ToolRefusal, match=said):
        words.read_manifest(manifest)


@given(st.text(max_size=200))
def test_any_text_is_a_manifest_or_refused(text: str) -> None:
    try:
        assert isinstance(words.read_manifest(text), dict)
    except ToolRefusal as error:
        assert str(error)


@pytest.mark.parametrize(
    "kind",
    [("v1", "Secret"), ("v1", "Namespace"), ("rbac.authorization.k8s.io/v1", "Role"), ("v1", "ServiceAccount"),
     ("networking.k8s.io/v1", "NetworkPolicy"), ("apps/v1", "DaemonSet"), ("v1", "pod"), ("", "")],
)  # fmt: skip
def test_what_would_change_the_fence_is_not_an_agents_to_make(kind: tuple[str, str]) -> None:
    with pytest.raises(ToolRefusal, match="not an agent's to make"):
        words.resource_of({"apiVersion": kind[0], "kind": kind[1]})


@pytest.mark.parametrize("metadata", [None, {}, {"name": ""}, {"name": 3}, {"generateName": "a-"}, "x"])
def test_a_manifest_without_a_name_is_refused(metadata: Json) -> None:
    with pytest.raises(ToolRefusal, match=r"needs metadata\.name"):
        words.name_in({"metadata": metadata})


# -- accesses and rights ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "resource",
    ["", "get", "get /pods", "get /secrets run/a", "get apps/pods run/a", "get /pods kube-system/a", " /pods run/a"],
)
def test_an_access_that_no_tool_makes_opens_nothing(resource: str) -> None:
    with pytest.raises(ToolRefusal):
        words.right_of(resource)


@given(st.sampled_from(["get", "list", "patch"]), st.sampled_from(sorted(GROUP_OF)), st.sampled_from(["a", "a.b", "*"]))
def test_an_access_and_its_right_say_the_same(verb: str, resource: str, name: str) -> None:
    found = words.right_of(words.access(verb, resource, name).resource)
    assert found == Right(verb, GROUP_OF[resource], resource, "" if name == "*" else name)


def test_a_change_comes_with_reading_the_one_object_that_it_changes() -> None:
    accesses = [words.access("create", "deployments", "web"), words.access("patch", "deployments", "web")]
    assert {(one.verb, one.name) for one in words.rights_of(accesses)} == {
        ("create", "web"),
        ("patch", "web"),
        ("get", "web"),
    }


# -- profiles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tools",
    [
        b"tools: {kubernetes: [{resources: [secrets], verbs: [get]}]}\n",
        b"tools: {kubernetes: [{resources: [pods/exec], verbs: [create]}]}\n",
        b"tools: {kubernetes: [{resources: ['*'], verbs: [get]}]}\n",
        b"tools: {kubernetes: [{resources: [pods], verbs: ['*']}]}\n",
        b"tools: {kubernetes: [{resources: [], verbs: [get]}]}\n",
    ],
)
def test_a_profile_cannot_give_what_admission_refuses(tools: bytes) -> None:
    with pytest.raises(ProfileInvalid):
        profile(ON_CLUSTER + tools)


def test_a_profile_with_a_local_sandbox_has_no_cluster_tools() -> None:
    with pytest.raises(ProfileInvalid, match="needs sandbox"):
        profile(HEAD + READS)
    names = toolbox_for(profile(HEAD), builtin_toolbox()).names()
    assert "shell" in names
    assert not [name for name in names if name.startswith("kubernetes_")]


def test_what_a_profile_lists_needs_nobody_and_the_rest_is_asked() -> None:
    policy = Policy.compile(profile(ON_CLUSTER + READS + ASKS))

    def effect(verb: str, resource: str) -> Effect:
        return policy.decide("kubernetes_x", (words.access(verb, resource, "a"),)).effect

    assert effect("delete", "pods") is Effect.ESCALATE
    assert effect("get", "configmaps") is Effect.ESCALATE
    assert effect("get", "pods/log") is Effect.ESCALATE
    assert (effect("get", "pods"), effect("list", "deployments")) == (Effect.ALLOW, Effect.ALLOW)


def test_a_rule_that_forbids_beats_what_the_profile_lists() -> None:
    rules = b"rules: [{id: never, forbid: [cluster], resources: ['get /pods *']}]\n"
    policy = Policy.compile(profile(ON_CLUSTER + READS + rules))
    assert policy.decide("kubernetes_get", (words.access("get", "pods", "a"),)).effect is Effect.FORBID


def test_a_profiles_rights_become_one_role_rule_for_each_group() -> None:
    assert cluster_rules_of(profile(HEAD)) == ()
    assert cluster_rules_of(profile(ON_CLUSTER + READS)) == (
        ClusterRule(("",), ("pods",), ("get", "list")),
        ClusterRule(("apps",), ("deployments",), ("get", "list")),
    )


# -- what is shown ---------------------------------------------------------------------------------------------------


def test_a_diff_leaves_out_what_the_server_chooses_anew() -> None:
    before: Json = {"metadata": {"name": "a", "uid": "1", "resourceVersion": "1"}, "spec": {"replicas": 1}}
    after: Json = {
        "metadata": {"name": "a", "uid": "2", "resourceVersion": "2", "managedFields": [{}]},
        "spec": {"replicas": 3, "clusterIP": "10.0.0.1", "volumes": [{"name": "kube-api-access-x7z2p"}]},
        "status": {"phase": "Pending"},
    }
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    assert changes(before, after) == (
        Change("spec.replicas", 1, 3),
        Change("spec.volumes[0].name", None, "kube-api-access-"),
    )


def job(uid: str, **labels: str) -> dict[str, Json]:
    """As a server-side dry run answers: its controller's labels hold the uid that each answer has anew."""
    own = {"controller-uid": uid, "batch.kubernetes.io/controller-uid": uid, **labels}
    selector: Json = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    template: Json = {"metadata": {"labels": own}}
    return {"metadata": {"name": "once", "uid": uid}, "spec": {"selector": selector, "template": template}}


def test_what_holds_an_objects_own_uid_is_the_same_in_every_dry_run() -> None:
    assert changes(None, job("1")) == changes(None, job("2"))
    assert changes(job("1"), job("2")) == ()


def test_a_label_that_only_looks_like_the_controllers_is_shown() -> None:
    word = "batch.kubernetes.io/controller-uid"
    shown = [one.after for one in changes(None, job("1", **{word: "another", "controller-uid": "another"}))]
    assert shown.count("another") == 2


def test_a_new_object_that_the_server_would_make_otherwise_is_not_what_people_saw() -> None:
    asked: Json = {"spec": {"image": "example.org/a"}}
    assert isinstance(asked, dict)
    assert unasked(asked, (Change("spec.image", None, "mirror.example/a"),)) == (
        Change("spec.image", None, "mirror.example/a"),
    )
    assert unasked(asked, (Change("spec.image", None, "example.org/a"), Change("spec.added", None, 1))) == ()


def test_a_cards_lines_are_bounded_and_safe_whatever_the_object_holds() -> None:
    asked: Json = {"data": {f"k{at}": "\x1b[2J" for at in range(200)} | {"long": "x" * 10_000}}
    assert isinstance(asked, dict)
    lines = words.diff_lines(DryRun(True, changes(None, asked)), asked)
    assert len(lines) == words.CARD_LINES + 1
    assert lines[-1] == "… and 161 more fields"
    assert all(len(line) < 400 and line.isprintable() for line in lines)
    assert "\\u001b[2J" in lines[0]


def test_a_dry_runs_digest_changes_with_every_change() -> None:
    one = DryRun(False, (Change("spec.replicas", 1, 3),))
    others = [
        DryRun(True, one.changes),
        DryRun(False, (Change("spec.replicas", 1, 4),)),
        DryRun(False, (Change("spec.replicas", 2, 3),)),
        DryRun(False, ()),
    ]
    assert words.digest_of(one) not in {words.digest_of(other) for other in others}


def test_what_an_account_may_already_do_is_one_line() -> None:
    assert words.already([]) == "its account may already: nothing"
    said = words.already([Right("get", "", "pods"), Right("list", "", "pods"), Right("get", "apps", "deployments")])
    assert said == "its account may already: get, list pods; get deployments.apps"


def test_an_objects_text_reaches_the_agent_without_what_acts_on_a_screen() -> None:
    hostile: Json = {"metadata": {"name": "a", "managedFields": [1]}, "data": {"a": "\x1b]0;x\x07\u202e"}}
    assert isinstance(hostile, dict)
    shown = words.shown(hostile)
    assert shown.isascii()
    assert not set(shown) & set("\x1b\x07")
    assert "managedFields" not in shown
    row = words.row({"metadata": {"name": "e"}, "reason": "Failed", "message": "\x1b[1mx" + "y" * 5000})
    assert row.isprintable()
    assert len(row) < 700
    assert json.dumps(words.lines_of(b"\xff\x00ok")).isascii()
