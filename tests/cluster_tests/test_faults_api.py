"""An API server that is overloaded, away, changed by others or wrong, played by one on loopback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from kubernetes.aio import client as kubernetes_client

from ringfence_sandbox.errors import ProtocolViolation, SandboxBusy
from ringfence_sandbox.kubernetes import kinds, names, rights_check, waiting
from ringfence_sandbox.kubernetes.agent_api import standing_grants
from ringfence_sandbox.kubernetes.agent_objects import GRANT
from ringfence_sandbox.kubernetes.api import ClusterApi
from ringfence_sandbox.kubernetes.backend import KubernetesBackend
from ringfence_sandbox.kubernetes.credentials import ControlKey
from ringfence_sandbox.kubernetes.errors import (
    ClusterUnavailable,
    Conflict,
    ObjectNotFound,
    QuotaFull,
    RequestRefused,
)
from ringfence_sandbox.kubernetes.json_value import Json
from ringfence_sandbox.kubernetes.rights import Attack
from ringfence_sandbox.kubernetes.settings import ClusterSettings

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Script:
    """Answers in order; the last one for ever. `seen` are the requests."""

    answers: list[Answer]
    seen: list[str] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(f"{request.method} {request.path_qs}")
        return await (self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])(request)


def says(status: int, body: Json = None, **headers: str) -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response(body or {}, status=status, headers=headers)

    return answer


def refuses(status: int, message: str, reason: str = "") -> Answer:
    return says(status, {"kind": "Status", "message": message, "reason": reason})


def streams(*lines: bytes) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for line in lines:
            await response.write(line + b"\n")
        return response

    return answer


def event(kind: str, thing: Json) -> bytes:
    return json.dumps({"type": kind, "object": thing}).encode()


@asynccontextmanager
async def played(*answers: Answer, patience_s: float = 10.0) -> AsyncIterator[tuple[ClusterApi, Script]]:
    script = Script(list(answers))
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", script.handle)
    # a handler that never ends must not hold the end of a test
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    configuration = kubernetes_client.Configuration()
    configuration.host = f"http://127.0.0.1:{runner.addresses[0][1]}"
    configuration.retries = 0
    api = ClusterApi(kubernetes_client.ApiClient(configuration), patience_s=patience_s)
    try:
        yield api, script
    finally:
        await api.close()
        await runner.cleanup()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (refuses(404, "not found"), ObjectNotFound),
        (refuses(409, "already exists", "AlreadyExists"), Conflict),
        (refuses(410, "too old", "Expired"), Conflict),
        (refuses(403, 'pods "x" is forbidden: exceeded quota: sandbox'), QuotaFull),
        (refuses(403, "forbidden: User cannot create"), RequestRefused),
        (refuses(401, "Unauthorized"), RequestRefused),
        (refuses(422, "spec is immutable", "Invalid"), RequestRefused),
    ],
)
async def test_a_final_answer_is_asked_for_once_and_has_its_error(answer: Answer, kind: type[Exception]) -> None:
    async with played(answer) as (api, script):
        with pytest.raises(kind):
            await api.get(kinds.POD, "x", namespace="rf-r-x")
        assert len(script.seen) == 1


async def test_a_server_that_stays_away_is_told_of_when_patience_ends() -> None:
    async with played(says(503), patience_s=0.3) as (api, script):
        with pytest.raises(ClusterUnavailable, match="503"):
            await api.version()
        assert len(script.seen) > 1
    with pytest.raises(ClusterUnavailable, match="did not answer"):
        async with played(says(200), patience_s=0.3) as (api, _):
            api._client.configuration.host = "http://127.0.0.1:1"
            await api.version()


async def test_an_overloaded_server_is_asked_again() -> None:
    ok = says(200, {"gitVersion": "v1.37.2"})
    async with played(says(429, **{"Retry-After": "0"}), says(500), says(504), ok) as (api, script):
        assert await api.version() == "v1.37.2"
        assert len(script.seen) == 4


async def test_a_patch_that_admission_or_validation_refuses_is_no_conflict() -> None:
    """Whoever meets a conflict reads again and tries again, which would never help here."""
    for message in ("ValidatingAdmissionPolicy 'x' denied request: no", 'metadata.labels: Invalid value: "a b"'):
        async with played(refuses(422, message, "Invalid")) as (api, _):
            with pytest.raises(RequestRefused) as refused:
                await api.json_patch(kinds.NAMESPACE, "rf-p-1", [{"op": "add", "path": "/a", "value": "1"}])
            assert refused.value.status == 422


@pytest.mark.parametrize(
    ("answer", "is_refused"),
    [
        (refuses(422, 'Pod "check" is invalid: spec.containers: Required value', "Invalid"), False),
        (refuses(403, 'pods "check" is forbidden: because it is being terminated', "Forbidden"), False),
        (refuses(403, 'pods "check" is forbidden: exceeded quota: sandbox', "Forbidden"), False),
        (refuses(404, "not found"), False),
        (refuses(400, "unknown field"), False),
        (says(201, {}), False),
        (refuses(403, 'pods is forbidden: User "x" cannot list resource "pods"', "Forbidden"), True),
        (refuses(403, 'pods "check" is forbidden: violates PodSecurity "restricted:latest"', "Forbidden"), True),
        (refuses(422, "ValidatingAdmissionPolicy 'x' with binding 'x' denied request: no", "Invalid"), True),
    ],
)
async def test_only_rbac_admission_and_pod_security_refuse_an_attack(answer: Answer, is_refused: bool) -> None:
    async with played(answer) as (api, _):
        tried = await rights_check.attempt(api, Attack("", "POST", kinds.POD.path("rf-check-1"), {}))
        assert tried.is_refused is is_refused, tried.said


def role_of(grant: str) -> Json:
    return {"items": [{"metadata": {"name": f"grant-{grant}", "labels": {GRANT: grant}}}]}


async def test_grants_that_cannot_be_read_are_an_error_unless_their_namespace_is_going_away(
    caplog: pytest.LogCaptureFixture,
) -> None:
    listed: Json = {"items": [{"metadata": {"name": "rf-r-a", "labels": {GRANT: ""}}}]}
    refused = refuses(403, "roles is forbidden", "Forbidden")
    async with played(says(200, listed), refused, says(200, {"metadata": {"name": "rf-r-a"}})) as (api, _):
        assert await standing_grants(api, "here") == {}
        assert "grants in rf-r-a cannot be looked at" in caplog.text
        caplog.clear()
    going: Json = {"metadata": {"name": "rf-r-a", "deletionTimestamp": "2026-01-01T00:00:00Z"}}
    async with played(says(200, listed), refused, says(200, going)) as (api, _):
        assert await standing_grants(api, "here") == {}
    async with played(says(200, listed), refused, refuses(404, "gone")) as (api, _):
        assert await standing_grants(api, "here") == {}
    assert caplog.text == ""
    async with played(says(200, listed), says(200, role_of("g-1"))) as (api, _):
        assert await standing_grants(api, "here") == {"rf-r-a/grant-g-1": "g-1"}


def space(name: str, sandbox: str, made: datetime) -> Json:
    labels: Json = {names.SANDBOX: sandbox}
    return {"metadata": {"name": name, "labels": labels, "creationTimestamp": made.isoformat()}}


async def test_a_sweeper_is_not_told_of_a_check_or_clone_at_work_but_of_one_that_was_cut_off() -> None:
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    young, old = now - timedelta(minutes=9), now - timedelta(minutes=11)
    spaces: Json = [
        space("rf-r-doctor-a", "doctor-a", young),
        space("rf-r-doctor-b", "doctor-b", old),
        space("rf-r-clone-a", "clone-a", old),
        space("rf-r-clone-b", "clone-b", now - timedelta(hours=3)),
        space("rf-r-r1-1", "r1-1", young),
    ]
    async with played(says(200, {"items": spaces})) as (api, _):
        settings = ClusterSettings(image="images.example.org/team:1", inside_image="images.example.org/inside:1")
        backend = KubernetesBackend(api, settings, ControlKey(b"t" * 32), now=lambda: now)
        assert await backend.sandboxes() == {"doctor-b", "clone-b", "r1-1"}


def test_no_two_checks_share_a_name_whatever_process_makes_them() -> None:
    found = {names.check_sandbox() for _ in range(100)}
    assert len(found) == 100
    assert all(names.is_sandbox_id(one) and names.is_check(one) for one in found)
    assert not names.is_check("r1-1")


async def test_a_failed_test_of_a_patch_is_a_conflict() -> None:
    async with played(refuses(422, "the server rejected our request due to an error in our request")) as (api, _):
        with pytest.raises(Conflict):
            await api.json_patch(kinds.NAMESPACE, "rf-p-1", [{"op": "test", "path": "/a", "value": "1"}])


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        ((event("ERROR", {"message": "too old resource version", "code": 410}),), Conflict),
        ((b"no json",), ProtocolViolation),
        ((b"[1]",), ProtocolViolation),
    ],
)
async def test_a_watch_that_expired_or_is_nonsense_says_so(lines: tuple[bytes, ...], kind: type[Exception]) -> None:
    async with played(streams(*lines)) as (api, _):
        with pytest.raises(kind):
            async for _change in api.watch(kinds.POD, namespace="rf-r-x"):
                pass


def pod(version: str, *, is_running: bool) -> dict[str, Json]:
    state: Json = {"running": {}} if is_running else {"waiting": {"reason": "ContainerCreating"}}
    containers: Json = [
        {"name": names.INSTALLER, "state": {"running": {}}},
        {"name": names.CONTAINER, "state": state, "restartCount": 0},
    ]
    status: Json = {"phase": "Running", "podIP": "10.0.0.7", "containerStatuses": containers}
    return {"metadata": {"namespace": "rf-r-x", "uid": "u1", "resourceVersion": version}, "status": status}


async def test_waiting_for_a_pod_survives_watches_that_expire_or_are_cut() -> None:
    expired = event("ERROR", {"message": "too old resource version"})
    answers = (
        streams(expired),
        says(200, pod("2", is_running=False)),
        streams(event("MODIFIED", pod("3", is_running=False))),
        says(200, pod("4", is_running=True)),
    )
    async with played(*answers) as (api, script):
        view = await waiting.until_running(api, "rf-r-x", pod("1", is_running=False), timeout_s=10)
        assert view.address == "10.0.0.7"
        assert ["watch" in seen for seen in script.seen] == [True, False, True, False]


async def test_a_pod_that_never_runs_is_told_with_what_it_waits_for() -> None:
    async def silent(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await asyncio.Event().wait()
        return response

    async with played(silent) as (api, _):
        with pytest.raises(SandboxBusy, match="the main container waits: ContainerCreating"):
            await waiting.until_running(api, "rf-r-x", pod("1", is_running=False), timeout_s=0.2)


async def test_a_pod_that_a_lost_node_holds_is_told_of_when_another_must_go_on() -> None:
    held = pod("1", is_running=True) | {"spec": {"nodeName": "n1"}}
    # one answer that is the pod to who reads and no news to who watches
    async with played(says(200, held | {"type": "BOOKMARK", "object": {}})) as (api, _):
        with pytest.raises(SandboxBusy, match=r"still there after 0.2 s: `kubectl get node n1`"):
            await waiting.until_no_pod(api, "rf-r-x", timeout_s=0.2)
    async with played(says(200, held), streams(event("DELETED", held)), refuses(404, "gone")) as (api, script):
        await waiting.until_no_pod(api, "rf-r-x", timeout_s=5)
        assert len(script.seen) == 3
