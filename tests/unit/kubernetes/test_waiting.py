"""Every way in which a pod does not start or does not last, as the error and the sentence it becomes."""

from __future__ import annotations

import pytest

from ringfence_sandbox.errors import IsolationUnavailable, SandboxBusy, SandboxError, SandboxGone
from ringfence_sandbox.kubernetes import names, waiting
from ringfence_sandbox.kubernetes.json_value import Json
from ringfence_sandbox.kubernetes.waiting import Pending, PodView

RUNNING: Json = {"running": {"startedAt": "2026-11-24T00:00:00Z"}}


def status(name: str, state: Json, **more: Json) -> Json:
    return {"name": name, "image": "images.example.org/x:1", "state": state, "restartCount": 0, **more}


def waits(reason: str, message: str = "") -> Json:
    return {"waiting": {"reason": reason, "message": message}}


def pod(*containers: Json, deleted: bool = False, **more: Json) -> dict[str, Json]:
    metadata: dict[str, Json] = {"namespace": "rf-r-x", "uid": "u1"}
    if deleted:
        metadata["deletionTimestamp"] = "2026-11-24T00:00:00Z"
    return {"metadata": metadata, "status": {"phase": "Pending", "containerStatuses": list(containers), **more}}


def first(state: Json, **more: Json) -> Json:
    return status(names.INSTALLER, state, **more)


def main(state: Json, **more: Json) -> Json:
    return status(names.CONTAINER, state, **more)


OPEN: Json = {"terminated": {"exitCode": 7, "message": "open: reached 10.96.0.1:443 after 15000 ms"}}


@pytest.mark.parametrize(
    ("found", "kind", "says"),
    [
        (pod(deleted=True), SandboxGone, "is being deleted"),
        (pod(phase="Failed", reason="Evicted", message="The node was low on memory."), SandboxGone, "Evicted The node"),
        (pod(phase="Failed", reason="NodeLost"), SandboxGone, "NodeLost"),
        (pod(first(OPEN), main(waits("x"))), IsolationUnavailable, "not closed .*10.96.0.1"),
        (pod(first(waits("CrashLoopBackOff"), lastState=OPEN), main(RUNNING)), IsolationUnavailable, "not closed"),
        (pod(first(waits("PostStartHookError", "no answer")), main(RUNNING)), IsolationUnavailable, "not closed"),
        (pod(first(RUNNING), main(waits("ErrImagePull", "denied"))), IsolationUnavailable, "cannot be pulled.* denied"),
        (pod(first(RUNNING), main(waits("ErrImageNeverPull"))), IsolationUnavailable, "let the node pull it"),
        (pod(first(RUNNING), main(waits("CreateContainerError", "no such runtime"))), IsolationUnavailable, "runtime"),
        (
            pod(
                first(RUNNING),
                main(
                    waits("CrashLoopBackOff"),
                    lastState={"terminated": {"reason": "OOMKilled", "exitCode": 137, "message": ""}},
                ),
                podIP="10.0.0.7",
            ),
            SandboxBusy,
            "again and again, last with OOMKilled",
        ),
    ],
)
def test_what_will_not_start_by_itself_is_an_error_that_says_why(
    found: dict[str, Json], kind: type[SandboxError], says: str
) -> None:
    with pytest.raises(kind, match=says):
        waiting.read(found)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (
            pod(),
            "no node was chosen for it yet: `kubectl get pods -n kube-system` tells whether the scheduler is there",
        ),
        (
            pod() | {"spec": {"nodeName": "n1"}},
            "node n1 has not begun it: `kubectl get node n1` tells whether it is there",
        ),
        (
            pod(conditions=[{"type": "PodScheduled", "status": "False", "message": "0/3 nodes: Insufficient memory"}]),
            "no node has room: 0/3 nodes: Insufficient memory",
        ),
        (pod(first(RUNNING), main(waits("ContainerCreating"))), "the main container waits: ContainerCreating"),
        (pod(first(RUNNING), main({})), "the first container still looks at the network"),
        (pod(first(RUNNING), main(RUNNING)), "the first container still looks at the network"),
    ],
)
def test_what_may_still_start_says_what_it_waits_for(found: dict[str, Json], why: str) -> None:
    assert waiting.read(found) == Pending(why)


def test_a_pod_whose_main_container_runs_is_there() -> None:
    found = pod(first(RUNNING), main(RUNNING, restartCount=2), podIP="10.0.0.7", phase="Running")
    assert waiting.read(found) == PodView("u1", "10.0.0.7", 2)
