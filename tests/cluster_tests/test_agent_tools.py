"""The `kubernetes` tools through the gate, as the run's own account, on a real cluster: refused, granted, ended."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ringfence.wiring import cluster_rules_of
from ringfence_audit.keys import Signer
from ringfence_audit.store import SqlStore
from ringfence_sandbox.kubernetes import kinds, names, rights
from ringfence_sandbox.kubernetes.agent_api import RunAccount, remove_grant, standing_grants
from ringfence_sandbox.kubernetes.agent_objects import GRANT
from ringfence_sandbox.kubernetes.agent_port import Held, Right
from ringfence_sandbox.kubernetes.api import ClusterApi
from ringfence_sandbox.kubernetes.json_value import Json, Object, child
from ringfence_tools import escalations, ledger, review, schema
from ringfence_tools.builtin.toolset import builtin_toolbox, toolbox_for
from ringfence_tools.calls import CallKey, ResultStatus, RunId, ToolResult
from ringfence_tools.escalations import Escalation
from ringfence_tools.gate import Gate
from ringfence_tools.gate_context import RunContext, Settled, Waiting
from ringfence_tools.ledger import Proposal
from ringfence_tools.people import Person
from ringfence_tools.policy import Policy
from ringfence_tools.profile import parse_profile
from ringfence_tools.progress import ignore
from tests.cluster_tests.chart import until
from tests.cluster_tests.field import Field, field
from tests.cluster_tests.node import Cluster
from tests.fakes.counting_sandbox import CountingSandbox

pytestmark = pytest.mark.cluster

RUN = RunId("run-1")
ANA = Person("ana", frozenset({"owner"}))
PROFILE = b"""
apiVersion: ringfence.dev/v1
kind: Profile
metadata: {name: on-cluster, owner: owner, version: 1}
sandbox: {kind: kubernetes, image: "example.org/x:1"}
tools:
  kubernetes:
    - {resources: [pods, pods/log], verbs: [get, list, watch]}
    - {resources: [pods], verbs: [create, delete, patch]}
    - {resources: [pods/portforward], verbs: [get, create]}
    - {resources: [services], verbs: [get, create, patch]}
rules:
  - {id: careful, ask: [cluster], resources: ["patch /services *"], who: {any: [owner]}}
  - {id: ask-cluster, ask: [cluster], who: {any: [owner]}}
"""


class OnCluster(CountingSandbox):
    """Files in memory, an identity on the real cluster."""

    def __init__(self, agent: RunAccount) -> None:
        super().__init__()
        self.agent = agent


class Groups:
    def groups_of(self, name: str, *, team: str) -> frozenset[str]:
        return frozenset({"owner"})


@dataclass
class Desk:
    """An agent's calls and a person's votes, over one store."""

    place: Field
    store: SqlStore
    sandbox: OnCluster
    turn: int = 0

    async def step(self, tool: str, **arguments: object) -> tuple[CallKey, Settled | Waiting]:
        self.turn += 1
        toolbox, turn = builtin_toolbox(), self.turn
        proposal = Proposal("call_0", tool, json.dumps(arguments))
        rows = await self.store.write(
            lambda tx: ledger.propose(tx, RUN, turn, [proposal], is_read_only=toolbox.is_read_only)
        )
        return rows[0].key, await self.again(rows[0].key)

    async def again(self, key: CallKey) -> Settled | Waiting:
        profile = parse_profile(PROFILE, "on-cluster")
        gate = Gate(self.store, Policy.compile(profile), toolbox_for(profile, builtin_toolbox()), Groups())

        async def sandbox() -> CountingSandbox:
            return self.sandbox

        return await gate.step(key, RunContext(RUN, f"agent:{RUN}", "ben", 1, lambda tx: None, sandbox, ignore))

    async def result(self, tool: str, **arguments: object) -> ToolResult:
        _, step = await self.step(tool, **arguments)
        assert isinstance(step, Settled), step
        return step.result

    async def asked(self, tool: str, **arguments: object) -> tuple[CallKey, Escalation]:
        key, step = await self.step(tool, **arguments)
        assert isinstance(step, Waiting), step
        return key, await self.card(step)

    async def card(self, step: Waiting) -> Escalation:
        return await self.store.read(lambda connection: escalations.get(connection, step.escalation))

    async def approve(self, asked: Escalation) -> None:
        await self.store.write(lambda tx: review.approve(tx, asked.id, ANA, digest=asked.digest, width="once"))

    async def deny(self, asked: Escalation) -> None:
        await self.store.write(lambda tx: review.deny(tx, asked.id, ANA))

    async def rights(self) -> set[Right]:
        return set(await self.sandbox.agent.rights())


@pytest.fixture(scope="module")
def place(cluster: Cluster) -> Iterator[Field]:
    with field(cluster, "tools", cluster_rules_of(parse_profile(PROFILE, "on-cluster"))) as found:
        yield found


@pytest.fixture
async def desk(place: Field, tmp_path: Path) -> AsyncIterator[Desk]:
    assert schema.calls.metadata is not None
    with SqlStore.open(f"sqlite:///{tmp_path / 'log.db'}", signer=Signer.generate("test.example/log")) as store:
        store.create_schema()
        async with account(place) as agent:
            yield Desk(place, store, OnCluster(agent))


@asynccontextmanager
async def account(place: Field) -> AsyncIterator[RunAccount]:
    async with place.installed.orchestrator() as api:
        opened = RunAccount(api, place.run)
        yield opened
        await opened.close()


async def grants_on_cluster(place: Field, api: ClusterApi) -> list[str]:
    """Names of what any grant left in the run's namespace."""
    roles = await api.list(kinds.ROLE, namespace=place.run, selector=GRANT)
    bindings = await api.list(kinds.ROLE_BINDING, namespace=place.run, selector=GRANT)
    return [str(child(one, "metadata", "name")) for one in (*roles, *bindings)]


def config_map(name: str, **data: str) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})


def opens(asked: Escalation) -> str:
    lines = asked.card["opens"]
    assert isinstance(lines, list)
    return "\n".join(map(str, lines))


async def has_config_map(place: Field, api: ClusterApi, name: str) -> Object | None:
    return await api.find(kinds.CONFIG_MAP, name, namespace=place.run)


# -- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("kubernetes_get", {"resource": "secrets", "name": "inside"}, "resource"),
        ("kubernetes_get", {"resource": "pods", "name": "../../kube-system/pods/etcd"}, "name"),
        ("kubernetes_list", {"resource": "pods", "selector": "a=b&watch=true"}, "selector"),
        ("kubernetes_list", {"resource": "pods", "namespace": "kube-system"}, "namespace"),
        ("kubernetes_apply", {"manifest": "a: &x [1]\nb: *x"}, "aliases"),
        ("kubernetes_apply", {"manifest": config_map("a") + "\n---\n" + config_map("b")}, "one object at a time"),
        ("kubernetes_apply", {"manifest": '{"apiVersion": "v1", "kind": "Secret"}'}, "not an agent's to make"),
        (
            "kubernetes_apply",
            {"manifest": '{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "default"}}'},
            "namespace",
        ),
        ("kubernetes_port_forward", {"pod": "a", "port": 80, "path": "/ HTTP/1.1\r\nX: y"}, "path"),
    ],
)
async def test_a_call_that_reaches_out_of_its_namespace_or_form_is_told_what_to_mend(
    desk: Desk, tool: str, arguments: dict[str, object], said: str
) -> None:
    result = await desk.result(tool, **arguments)
    assert result.status is ResultStatus.INVALID
    assert said in result.text


async def test_a_denied_change_leaves_neither_the_change_nor_a_right(desk: Desk, api: ClusterApi) -> None:
    before = await desk.rights()
    key, asked = await desk.asked("kubernetes_apply", manifest=config_map("denied", a="b"))
    await desk.deny(asked)
    step = await desk.again(key)
    assert isinstance(step, Settled)
    assert step.result.status is ResultStatus.DENIED
    assert await has_config_map(desk.place, api, "denied") is None
    assert (await desk.rights(), await grants_on_cluster(desk.place, api)) == (before, [])


async def test_admission_refuses_an_agents_foreign_image_and_the_agent_is_told_why(desk: Desk) -> None:
    pod = json.dumps(as_yaml(rights.restricted_pod("", "foreign.invalid/x:1")))
    result = await desk.result("kubernetes_apply", manifest=pod)
    assert result.status is ResultStatus.FAILED
    assert "image is not from an allowed registry" in result.text


async def test_an_agent_cannot_delete_its_own_sandbox(desk: Desk, api: ClusterApi) -> None:
    result = await desk.result("kubernetes_delete", resource="pods", name=names.POD)
    assert (result.status, "not the agent's to change" in result.text) == (ResultStatus.FAILED, True)
    assert await api.find(kinds.POD, names.POD, namespace=desk.place.run)


# -- asked, granted, ended -------------------------------------------------------------------------------------------


async def test_what_rbac_refuses_is_granted_for_one_call_and_gone_after_it(desk: Desk, api: ClusterApi) -> None:
    before = await desk.rights()
    key, asked = await desk.asked("kubernetes_apply", manifest=config_map("wanted", a="b"))
    assert "NOT DRY-RUN" in opens(asked)
    assert "its account may already: " in opens(asked)
    assert "pods" in opens(asked)
    await desk.approve(asked)
    step = await desk.again(key)
    assert isinstance(step, Settled), step
    assert step.result.status is ResultStatus.OK, step.result.text
    assert child(await has_config_map(desk.place, api, "wanted"), "data") == {"a": "b"}
    assert await grants_on_cluster(desk.place, api) == []
    async with account(desk.place) as fresh:
        assert set(await fresh.rights()) == before


async def test_a_change_that_people_could_not_see_goes_back_to_them_with_its_diff(desk: Desk, api: ClusterApi) -> None:
    there: Object = json.loads(config_map("there", mode="strict"))
    await api.apply({**there, "metadata": {"name": "there", "namespace": desk.place.run}})
    key, asked = await desk.asked("kubernetes_apply", manifest=config_map("there", mode="open"))
    assert "NOT DRY-RUN" in opens(asked)
    await desk.approve(asked)
    step = await desk.again(key)
    assert isinstance(step, Waiting), step
    assert child(await has_config_map(desk.place, api, "there"), "data") == {"mode": "strict"}
    second = await desk.card(step)
    assert second.id != asked.id
    assert 'data.mode: "strict" → "open"' in opens(second)
    await desk.approve(second)
    step = await desk.again(key)
    assert isinstance(step, Settled), step
    assert child(await has_config_map(desk.place, api, "there"), "data") == {"mode": "open"}
    assert await grants_on_cluster(desk.place, api) == []


async def test_where_rbac_allows_it_the_card_shows_the_servers_dry_run_and_a_new_diff_asks_anew(
    desk: Desk, api: ClusterApi
) -> None:
    def service(app: str) -> str:
        spec = {"selector": {"app": app}, "ports": [{"port": 80}]}
        return json.dumps({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec})

    key, asked = await desk.asked("kubernetes_apply", manifest=service("web"))
    assert "dry run: creates services web" in opens(asked)
    assert 'spec.selector.app: (none) → "web"' in opens(asked)
    made: Object = json.loads(service("other"))
    await api.apply({**made, "metadata": {"name": "web", "namespace": desk.place.run}})
    await desk.approve(asked)
    step = await desk.again(key)
    assert isinstance(step, Waiting), step
    second = await desk.card(step)
    assert "dry run: changes 1 fields of services web" in opens(second)
    assert 'spec.selector.app: "other" → "web"' in opens(second)
    await desk.approve(second)
    step = await desk.again(key)
    assert isinstance(step, Settled)
    assert step.result.status is ResultStatus.OK, step.result.text


async def test_a_grant_that_a_killed_worker_left_ends_with_the_next_and_with_the_sweeper(
    desk: Desk, api: ClusterApi
) -> None:
    right = (Right("get", "", "configmaps", "there"),)
    async with account(desk.place) as killed:
        await killed.hold([Held("g-1", right, 4_000_000_000), Held("g-2", right, 1)])
    assert len(await grants_on_cluster(desk.place, api)) == 4
    async with desk.place.installed.orchestrator() as orchestrator:
        standing = await standing_grants(orchestrator, desk.place.installed.name)
        assert standing == {f"{desk.place.run}/grant-{grant}": grant for grant in ("g-1", "g-2")}
        for where in standing:
            await remove_grant(orchestrator, *where.split("/"))
        assert await grants_on_cluster(desk.place, api) == []
    async with account(desk.place) as killed:
        await killed.hold([Held("g-3", right, 4_000_000_000)])
    await desk.result("kubernetes_list", resource="pods")
    assert await grants_on_cluster(desk.place, api) == []


# -- what the profile gives ------------------------------------------------------------------------------------------


def as_yaml(pod: dict[str, Json]) -> Object:
    return {**pod, "metadata": {"name": "hostile"}}


async def test_a_run_reads_its_own_pods_and_what_they_say_cannot_act_on_a_screen(desk: Desk) -> None:
    serve = "h.test(h.SimpleHTTPRequestHandler, port=8080)"
    say = "import http.server as h; print('\\x1b]0;owned\\x07\\u202e', flush=True); " + serve
    locked: Json = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container: dict[str, Json] = {"name": "main", "image": desk.place.image, "securityContext": locked}
    container["command"] = ["python3", "-c", say]
    container["workingDir"] = "/usr/lib/python3"
    pod = as_yaml(rights.restricted_pod("", desk.place.image, containers=[container]))
    applied = await desk.result("kubernetes_apply", manifest=json.dumps(pod))
    assert applied.status is ResultStatus.OK, applied.text

    async def has_spoken() -> bool:
        return "owned" in (await desk.result("kubernetes_logs", pod="hostile")).text

    await until(has_spoken)
    logs = (await desk.result("kubernetes_logs", pod="hostile")).text
    assert "[U+001B]" in logs
    assert "[U+202E]" in logs
    assert not set(logs) & set("\x1b\x07\u202e")
    seen = await desk.result("kubernetes_watch", resource="pods", seconds=2, limit=2)
    assert "ADDED" in seen.text
    assert "hostile" in (await desk.result("kubernetes_list", resource="pods")).text
    assert "hostile" in (await desk.result("kubernetes_get", resource="pods", name="hostile")).text

    async def answers() -> bool:
        return "200 OK" in (await desk.result("kubernetes_port_forward", pod="hostile", port=8080, path="/")).text

    await until(answers)
    closed = await desk.result("kubernetes_port_forward", pod="hostile", port=81)
    assert closed.status is ResultStatus.FAILED, closed.text
    gone = await desk.result("kubernetes_delete", resource="pods", name="hostile")
    assert gone.status is ResultStatus.OK
