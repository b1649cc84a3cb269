"""Waiting for a pod: what its status says, as the sandbox's words for it.

Every way in which a pod fails to start has one sentence here that says what to do.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from ringfence_sandbox.errors import IsolationUnavailable, SandboxBusy, SandboxError, SandboxGone
from ringfence_sandbox.kubernetes import kinds, names
from ringfence_sandbox.kubernetes.api import ClusterApi
from ringfence_sandbox.kubernetes.errors import ClusterUnavailable, Conflict, RequestRefused
from ringfence_sandbox.kubernetes.json_value import Object, child, objects, text

NEVER = frozenset({"ErrImageNeverPull", "InvalidImageName", "ErrImagePull", "ImagePullBackOff", "ImageInspectError"})
BROKEN = frozenset({"CreateContainerError", "RunContainerError", "CreateContainerConfigError", "StartError"})
HOPELESS = re.compile(r"no runtime for|not support user namespaces")
"""What the node says of a pod that it will try for ever: only its events tell, the pod's status never does."""
LOOK_AFTER_S = 2.0


@dataclass(frozen=True, slots=True)
class PodView:
    """A pod whose main container runs, which it cannot before the first has seen the network closed."""

    uid: str
    address: str
    restarts: int
    node: str = ""


@dataclass(frozen=True, slots=True)
class Pending:
    """Not yet. `why` is for the message should time run out."""

    why: str


def read(pod: Object) -> PodView | Pending:
    """What a pod's status comes down to. Raises the error of a pod that will not start by itself."""
    namespace = text(pod, "metadata", "namespace")
    if text(pod, "metadata", "deletionTimestamp"):
        raise SandboxGone(f"the pod in {namespace} is being deleted")
    if text(pod, "status", "phase") in ("Failed", "Succeeded"):
        reason = text(pod, "status", "reason") or "it ended"
        raise SandboxGone(f"the pod in {namespace} is over: {reason} {text(pod, 'status', 'message')}".strip())
    first, main = _status(pod, names.INSTALLER), _status(pod, names.CONTAINER)
    _raise_if_open(first, namespace)
    for container in (first, main):
        _raise_if_stuck(container, namespace)
    address = text(pod, "status", "podIP")
    if address and child(main, "state", "running") is not None:
        restarts = child(main, "restartCount")
        count = restarts if isinstance(restarts, int) else 0
        return PodView(text(pod, "metadata", "uid"), address, count, text(pod, "spec", "nodeName"))
    return Pending(_why(pod, first, main))


def is_done(pod: Object) -> bool:
    """Whether the pod ends or has ended, so that only another can go on."""
    return bool(text(pod, "metadata", "deletionTimestamp")) or text(pod, "status", "phase") in ("Failed", "Succeeded")


def _status(pod: Object, container: str) -> Object:
    return next((one for one in objects(pod, "status", "containerStatuses") if text(one, "name") == container), {})


def _raise_if_open(first: Object, namespace: str) -> None:
    seen = ""
    for state in ("state", "lastState"):
        ended = child(first, state, "terminated")
        if child(ended, "exitCode") == 7:
            seen = text(ended, "message")
    if text(first, "state", "waiting", "reason") == "PostStartHookError":
        seen = seen or text(first, "state", "waiting", "message")
    if seen:
        raise IsolationUnavailable(
            f"the network of {namespace} is not closed ({seen[:300]})",
            fix="use a network plugin that enforces NetworkPolicy, or name the reduced level in the profile",
        )


def _raise_if_stuck(container: Object, namespace: str) -> None:
    waiting = child(container, "state", "waiting")
    reason, message = text(waiting, "reason"), text(waiting, "message")[:400]
    if reason in NEVER:
        raise IsolationUnavailable(
            f"the image {text(container, 'image')} cannot be pulled in {namespace}: {reason} {message}",
            fix="correct the image's name, let the node pull it, or allow its registry",
        )
    if reason in BROKEN:
        raise IsolationUnavailable(
            f"a container of {namespace} cannot be made: {message or reason}",
            fix="read the message: a runtime class, a user namespace or a mount that the node does not have",
        )
    if reason == "CrashLoopBackOff":
        last = child(container, "lastState", "terminated")
        raise SandboxBusy(
            f"{text(container, 'name')} in {namespace} ended again and again, last with {text(last, 'reason')}"
            f" {text(last, 'message')[:300]}"
        )


def _why(pod: Object, first: Object, main: Object) -> str:
    for condition in objects(pod, "status", "conditions"):
        if text(condition, "type") == "PodScheduled" and text(condition, "status") == "False":
            return f"no node has room: {text(condition, 'message')[:300]}"
    for name, container in (("first", first), ("main", main)):
        if reason := text(container, "state", "waiting", "reason"):
            return f"the {name} container waits: {reason}"
    if child(first, "state", "running") is not None:
        return "the first container still looks at the network"
    node = text(pod, "spec", "nodeName")
    if not node:
        return "no node was chosen for it yet: `kubectl get pods -n kube-system` tells whether the scheduler is there"
    return f"node {node} has not begun it: `kubectl get node {node}` tells whether it is there"


async def until_running(api: ClusterApi, namespace: str, pod: Object, *, timeout_s: float) -> PodView:
    """Wait until the pod's main container runs. Raises what `read` raises, or `SandboxBusy` when time runs out."""
    heard = [Pending("nothing was heard of it")]
    running = asyncio.ensure_future(_running(api, namespace, pod, heard))
    hopeless = asyncio.ensure_future(_hopeless(api, namespace, text(pod, "metadata", "uid")))
    try:
        async with asyncio.timeout(timeout_s):
            await asyncio.wait((running, hopeless), return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            return running.result()
        raise hopeless.result()
    except TimeoutError as error:
        raise SandboxBusy(f"the pod in {namespace} did not start within {timeout_s:g} s: {heard[-1].why}") from error
    finally:
        running.cancel()
        hopeless.cancel()
        await asyncio.gather(running, hopeless, return_exceptions=True)


async def _running(api: ClusterApi, namespace: str, pod: Object, heard: list[Pending]) -> PodView:
    """The pod once it runs. `heard` is told what it waits for."""
    async for state in _states(api, namespace, pod):
        found = read(state)
        if isinstance(found, PodView):
            return found
        heard[:] = [found]
    raise AssertionError("a watch without an end")


async def _hopeless(api: ClusterApi, namespace: str, uid: str) -> IsolationUnavailable:
    """What the node says where it can never start the pod. Asked rarely: five times in two minutes."""
    after_s = LOOK_AFTER_S
    while True:
        await asyncio.sleep(after_s)
        after_s *= 2
        try:
            events = await api.list(kinds.EVENT, namespace=namespace)
        except (ClusterUnavailable, RequestRefused):
            continue  # the pod itself is still watched, within the time that it has
        for event in events:
            said = text(event, "message")
            if text(event, "involvedObject", "uid") == uid and HOPELESS.search(said):
                return IsolationUnavailable(
                    f"the node cannot start the pod in {namespace}: {said[:400]}",
                    fix="name a runtime class that the nodes have, or use nodes that offer it and user namespaces",
                )


async def _states(api: ClusterApi, namespace: str, pod: Object) -> AsyncIterator[Object]:
    """The pod as it is, and as it becomes, for ever; a watch that ends or expires is begun again."""
    while True:
        yield pod
        version = text(pod, "metadata", "resourceVersion")
        try:
            async for change in api.watch(
                kinds.POD, namespace=namespace, name=names.POD, version=version, timeout_s=120
            ):
                if change.type == "DELETED":
                    raise SandboxGone(f"the pod in {namespace} was deleted")
                if change.type != "BOOKMARK":
                    yield change.object
        except (Conflict, ClusterUnavailable):
            # too old, or cut: read it again, which has a patience of its own
            await asyncio.sleep(0.05)
        pod = await api.get(kinds.POD, names.POD, namespace=namespace)


async def until_no_pod(api: ClusterApi, namespace: str, *, timeout_s: float) -> None:
    """Wait until a deleted pod no longer exists. Raises `SandboxBusy`."""
    node = ""
    try:
        async with asyncio.timeout(timeout_s):
            while (pod := await api.find(kinds.POD, names.POD, namespace=namespace)) is not None:
                node = text(pod, "spec", "nodeName")
                await _until_deleted(api, namespace, version=text(pod, "metadata", "resourceVersion"))
    except TimeoutError as error:
        raise SandboxBusy(
            f"the earlier pod in {namespace} is still there after {timeout_s:g} s: `kubectl get node {node}` tells"
            " whether its node is there"
        ) from error


async def _until_deleted(api: ClusterApi, namespace: str, *, version: str) -> None:
    """Until the pod is deleted, or the watch has nothing more to say."""
    try:
        async for change in api.watch(kinds.POD, namespace=namespace, name=names.POD, version=version, timeout_s=60):
            if change.type == "DELETED":
                return
    except (Conflict, ClusterUnavailable):
        await asyncio.sleep(0.05)


async def until_gone(api: ClusterApi, namespace: str, *, timeout_s: float) -> None:
    """Wait until a namespace no longer exists. Raises `SandboxBusy`, saying what holds it."""
    found = await api.find(kinds.NAMESPACE, namespace)
    try:
        async with asyncio.timeout(timeout_s):
            while found is not None:
                if (last := await _next_state(api, namespace, found)) is None:
                    return
                found = last
    except TimeoutError as error:
        found = await api.find(kinds.NAMESPACE, namespace)
        if found is None:
            return
        said = "; ".join(
            text(one, "message")[:200]
            for one in objects(found, "status", "conditions")
            if text(one, "status") == "True" and text(one, "message")
        )
        raise SandboxBusy(
            f"namespace {namespace} is still there after {timeout_s:g} s: {said or 'its contents are being removed'};"
            f" `kubectl get all,pvc -n {namespace}` shows what holds it, the sweeper asks again"
        ) from error


async def _next_state(api: ClusterApi, namespace: str, found: Object) -> Object | None:
    """The namespace after its next change; None once it is gone."""
    version = text(found, "metadata", "resourceVersion")
    try:
        async for change in api.watch(kinds.NAMESPACE, name=namespace, version=version, timeout_s=60):
            if change.type == "DELETED":
                return None
            if change.type != "BOOKMARK":
                found = change.object
    except (Conflict, ClusterUnavailable):
        await asyncio.sleep(0.2)
    return await api.find(kinds.NAMESPACE, namespace)


def is_over(error: SandboxError) -> bool:
    """Whether trying again cannot help."""
    return isinstance(error, SandboxGone | IsolationUnavailable)
