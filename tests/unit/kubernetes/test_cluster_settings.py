"""What the setting for a cluster may say, and what `--sandbox` may change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ringfence.cluster import cluster_form, kubeconfig_of, with_sandbox
from ringfence.errors import Mistake
from ringfence.settings import Settings
from ringfence_tools.profile import parse_profile, pin_profile

GOOD = {"image": "images.example.org/python:3.12", "inside_image": "images.example.org/inside:1"}


def settings(**kubernetes: object) -> Settings:
    return Settings.model_validate({"kubernetes": kubernetes})


def test_without_the_setting_one_line_says_what_to_set() -> None:
    with pytest.raises(Mistake, match="RINGFENCE_KUBERNETES"):
        cluster_form(settings())


@pytest.mark.parametrize("wrong", [{"image": ""}, {"imgae": "x"}, {"instance": "A B"}, {"reach": "vpn"}])
def test_a_wrong_setting_is_named(wrong: dict[str, str]) -> None:
    with pytest.raises(Mistake, match=next(iter(wrong))):
        cluster_form(settings(**{**GOOD, **wrong}))


@pytest.mark.parametrize("kind", ["kubernetes", "gvisor"])
def test_a_profile_that_asks_for_more_never_gets_a_local_sandbox(kind: str) -> None:
    document = json.dumps({"sandbox": {"kind": kind}})
    with pytest.raises(Mistake, match="nobody but its owner"):
        with_sandbox(document, "local", settings(**GOOD))


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(Mistake, match="kind 'vm'"):
        with_sandbox("{}", "vm", settings(**GOOD))


def test_only_the_place_of_execution_changes() -> None:
    pinned = pin_profile("default")
    moved = with_sandbox(pinned, "kubernetes", settings(**GOOD))
    before, after = parse_profile(pinned.encode(), "default"), parse_profile(moved.encode(), "default")
    assert (after.sandbox.kind, after.sandbox.image) == ("kubernetes", GOOD["image"])
    assert after.model_copy(update={"sandbox": before.sandbox}) == before
    assert after.sandbox.limits == before.sandbox.limits


def test_the_kubeconfig_is_the_one_that_kubectl_would_use() -> None:
    form = cluster_form(settings(**GOOD))
    assert kubeconfig_of(form, {"KUBECONFIG": "/etc/a:/etc/b", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}) == Path("/etc/a")
    assert kubeconfig_of(form, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}) is None
    assert kubeconfig_of(form, {}) == Path.home() / ".kube" / "config"


def test_keys_lie_apart_from_the_state_where_the_setting_says_so() -> None:
    apart = Settings(home=Path("/state"), keys=Path("/run/keys"), audit_key=None)
    found = {apart.key_file, apart.originals_key, apart.people_key, apart.sandbox_key}
    assert {path.parent for path in found} == {Path("/run/keys")}
    together = Settings(home=Path("/state"), keys=None, audit_key=None)
    assert together.sandbox_key == Path("/state/sandbox.key")
