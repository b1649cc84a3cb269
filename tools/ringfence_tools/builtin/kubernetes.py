"""The `kubernetes` family: what an agent may do on the cluster, as its run's own account, in its run's own namespace.

Offered where a profile has `tools.kubernetes`. The account's token is asked for by the control plane, lives ten
minutes and never enters the sandbox; the API server itself enforces the limit. What the profile does not give is put
to people, and an approval becomes a Role with an expiry. A change that people decide on is shown as the server's own
dry run where the account may ask for one, else marked *not dry-run* and dry-run first once the grant stands.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import Annotated, ClassVar, TypeVar

from pydantic import Field

from ringfence_sandbox.contract import Sandbox
from ringfence_sandbox.kubernetes.agent_objects import unasked
from ringfence_sandbox.kubernetes.agent_port import (
    AgentCluster,
    DryRun,
    NotAccepted,
    NotPermitted,
    NotThere,
    OnCluster,
    Resource,
)
from ringfence_sandbox.kubernetes.json_value import Json, Object, child
from ringfence_tools.builtin import kubernetes_words as words
from ringfence_tools.calls import Access, ResultStatus, ToolResult
from ringfence_tools.card_text import visible
from ringfence_tools.toolbox import (
    Acting,
    Arguments,
    Foreseen,
    OutsideTool,
    ReadTool,
    Reconsider,
    ToolRefusal,
    failed,
)

LEARNED_LIMIT = 32

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$", description="The object's name.")]
Selector = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_./=!,() -]{0,500}$", description="A label selector, such as app=web.")
]
A = TypeVar("A", bound=Arguments)


class ObjectArguments(Arguments):
    resource: Resource
    name: Name


class ListArguments(Arguments):
    resource: Resource
    selector: Selector = ""
    limit: Annotated[int, Field(ge=1, le=500)] = 100


class WatchArguments(Arguments):
    resource: Resource
    selector: Selector = ""
    seconds: Annotated[int, Field(ge=1, le=120, description="How long to look.")] = 15
    limit: Annotated[int, Field(ge=1, le=200, description="Look no further after so many events.")] = 50


class LogsArguments(Arguments):
    pod: Name
    container: Annotated[str, Field(pattern=r"^[a-z0-9-]{0,63}$")] = ""
    lines: Annotated[int, Field(ge=1, le=2000, description="The last so many.")] = 200
    previous: Annotated[bool, Field(description="Of the container before the last restart.")] = False


class ApplyArguments(Arguments):
    manifest: Annotated[str, Field(min_length=1, max_length=64 << 10, description="One object, in YAML or JSON.")]


class PortForwardArguments(Arguments):
    pod: Name
    port: Annotated[int, Field(ge=1, le=65535)]
    path: Annotated[
        str, Field(pattern=r"^(/[!-~]{0,1000})?$", description="Ask for it by HTTP; without, only connect and listen.")
    ] = ""
    seconds: Annotated[int, Field(ge=1, le=30)] = 5


class ClusterRead(ReadTool[A]):
    """A read as the run's own account."""

    async def read(self, arguments: A, sandbox: Sandbox) -> ToolResult:
        return await _told(lambda: self.ask(arguments, _agent(sandbox)))

    @abstractmethod
    async def ask(self, arguments: A, agent: AgentCluster) -> ToolResult: ...

    async def foresee(self, arguments: A, sandbox: Sandbox) -> Foreseen:
        return Foreseen(tuple(await _before(_agent(sandbox))), "")


class KubernetesGet(ClusterRead[ObjectArguments]):
    name: ClassVar[str] = "kubernetes_get"
    description: ClassVar[str] = "Show one object of your own namespace on the cluster, as YAML."
    arguments = ObjectArguments

    def accesses(self, arguments: ObjectArguments) -> tuple[Access, ...]:
        return (words.access("get", arguments.resource, arguments.name),)

    async def ask(self, arguments: ObjectArguments, agent: AgentCluster) -> ToolResult:
        return _ok(words.shown(await agent.get(arguments.resource, arguments.name)))


class KubernetesList(ClusterRead[ListArguments]):
    name: ClassVar[str] = "kubernetes_list"
    description: ClassVar[str] = "List objects of your own namespace on the cluster, one a line."
    arguments = ListArguments

    def accesses(self, arguments: ListArguments) -> tuple[Access, ...]:
        return (words.access("list", arguments.resource),)

    async def ask(self, arguments: ListArguments, agent: AgentCluster) -> ToolResult:
        found = await agent.list(arguments.resource, selector=arguments.selector, limit=arguments.limit)
        lines = [words.row(one) for one in found.items]
        if found.is_more:
            lines.append("[there are more: narrow the selector, or raise limit]")
        return _ok("\n".join(lines) or f"(no {arguments.resource})")


class KubernetesWatch(ClusterRead[WatchArguments]):
    name: ClassVar[str] = "kubernetes_watch"
    description: ClassVar[str] = (
        "Watch objects of your own namespace for some seconds: what is there, then what changes. Ends by itself."
    )
    arguments = WatchArguments

    def accesses(self, arguments: WatchArguments) -> tuple[Access, ...]:
        return (words.access("watch", arguments.resource),)

    async def ask(self, arguments: WatchArguments, agent: AgentCluster) -> ToolResult:
        seen = await agent.watch(
            arguments.resource, selector=arguments.selector, seconds=arguments.seconds, limit=arguments.limit
        )
        return _ok(words.events(seen) or f"(nothing within {arguments.seconds} s)")


class KubernetesLogs(ClusterRead[LogsArguments]):
    name: ClassVar[str] = "kubernetes_logs"
    description: ClassVar[str] = "The last lines that a container of a pod in your own namespace wrote."
    arguments = LogsArguments

    def accesses(self, arguments: LogsArguments) -> tuple[Access, ...]:
        return (words.access("get", "pods/log", arguments.pod),)

    async def ask(self, arguments: LogsArguments, agent: AgentCluster) -> ToolResult:
        data = await agent.logs(
            arguments.pod, container=arguments.container, lines=arguments.lines, is_previous=arguments.previous
        )
        return _ok(words.lines_of(data) or "(it wrote nothing)")


class KubernetesPortForward(ClusterRead[PortForwardArguments]):
    name: ClassVar[str] = "kubernetes_port_forward"
    description: ClassVar[str] = (
        "Test whether a port of one of your pods answers: connect through the API server, ask for `path` by HTTP where "
        "it is given, and show what comes back."
    )
    arguments = PortForwardArguments

    def accesses(self, arguments: PortForwardArguments) -> tuple[Access, ...]:
        return (words.access("create", "pods/portforward", arguments.pod),)

    async def ask(self, arguments: PortForwardArguments, agent: AgentCluster) -> ToolResult:
        request = f"GET {arguments.path} HTTP/1.0\r\nHost: {arguments.pod}\r\n\r\n" if arguments.path else ""
        heard = await agent.probe(
            arguments.pod, arguments.port, send=request.encode(), seconds=float(arguments.seconds)
        )
        if not heard:
            return _ok(f"connected; nothing was said within {arguments.seconds} s")
        return _ok(words.lines_of(heard))


class KubernetesApply(OutsideTool[ApplyArguments]):
    name: ClassVar[str] = "kubernetes_apply"
    description: ClassVar[str] = (
        "Create one object in your own namespace, or bring its fields to what the manifest says (server-side apply). "
        "Pods need restricted Pod Security, `hostUsers: false` and images of an allowed registry."
    )
    arguments = ApplyArguments

    def accesses(self, arguments: ApplyArguments) -> tuple[Access, ...]:
        manifest = words.read_manifest(arguments.manifest)
        resource, name = words.resource_of(manifest), words.name_in(manifest)
        return (words.access("create", resource, name), words.access("patch", resource, name))

    def summary(self, arguments: ApplyArguments) -> str:
        manifest = words.read_manifest(arguments.manifest)
        return f"{words.resource_of(manifest)} {words.name_in(manifest)}"

    async def foresee(self, arguments: ApplyArguments, sandbox: Sandbox) -> Foreseen:
        agent, manifest = _agent(sandbox), words.read_manifest(arguments.manifest)
        resource, name = words.resource_of(manifest), words.name_in(manifest)
        before = await _before(agent)
        try:
            seen = await agent.dry_run(manifest)
        except NotPermitted:
            learned = agent.learned.get(words.manifest_digest(manifest))
            if learned is None:
                return Foreseen(
                    (
                        f"NOT DRY-RUN: its account may not apply {resource} {visible(name)} yet",
                        "it is dry-run first once you grant it; a change to something that exists comes back to you",
                        *before,
                    ),
                    "",
                )
            seen = learned
        except (NotAccepted, NotThere) as error:
            raise ToolRefusal(f"the cluster would not take it: {str(error)[:2000]}") from error
        verb = "creates" if seen.is_new else f"changes {len(seen.changes)} fields of"
        lines = (f"dry run: {verb} {resource} {visible(name)}", *words.diff_lines(seen, manifest), *before)
        return Foreseen(lines, words.digest_of(seen))

    async def act(self, arguments: ApplyArguments, acting: Acting) -> ToolResult:
        agent, manifest = _agent(acting.sandbox), words.read_manifest(arguments.manifest)
        return await _told(lambda: self._apply(manifest, agent, acting))

    async def _apply(self, manifest: Object, agent: AgentCluster, acting: Acting) -> ToolResult:
        resource, name = words.resource_of(manifest), words.name_in(manifest)
        if acting.is_approved:
            seen = await agent.dry_run(manifest)
            if seen.changes:
                _must_be_approved(manifest, seen, agent, acting)
        applied = await agent.apply(manifest)
        version = child(applied, "metadata", "resourceVersion")
        data = {"resource": resource, "name": name, "version": str(version)}
        return ToolResult(ResultStatus.OK, f"applied {resource} {name}", data)


class KubernetesDelete(OutsideTool[ObjectArguments]):
    name: ClassVar[str] = "kubernetes_delete"
    description: ClassVar[str] = "Delete one object of your own namespace on the cluster."
    arguments = ObjectArguments

    def accesses(self, arguments: ObjectArguments) -> tuple[Access, ...]:
        return (words.access("delete", arguments.resource, arguments.name),)

    async def foresee(self, arguments: ObjectArguments, sandbox: Sandbox) -> Foreseen:
        agent = _agent(sandbox)
        before = await _before(agent)
        what = f"{arguments.resource} {visible(arguments.name)}"
        try:
            found = await agent.get(arguments.resource, arguments.name)
        except NotPermitted:
            return Foreseen((f"NOT LOOKED AT: its account may not read {what} yet", *before), "")
        except (NotThere, NotAccepted) as error:
            raise ToolRefusal(f"there is nothing to delete: {str(error)[:500]}") from error
        uid, made = _uid(found), child(found, "metadata", "creationTimestamp")
        lines = (f"deletes {what}, made {visible(str(made))}, uid {visible(uid)}", *before)
        return Foreseen(lines, hashlib.sha256(uid.encode()).hexdigest())

    async def act(self, arguments: ObjectArguments, acting: Acting) -> ToolResult:
        return await _told(lambda: self._delete(arguments, _agent(acting.sandbox), acting))

    async def _delete(self, arguments: ObjectArguments, agent: AgentCluster, acting: Acting) -> ToolResult:
        uid = ""
        if acting.is_approved:
            try:
                uid = _uid(await agent.get(arguments.resource, arguments.name))
            except NotThere:
                return _ok(f"there is no {arguments.resource} {arguments.name} any more")
            approved = acting.foreseen
            if approved and approved != hashlib.sha256(uid.encode()).hexdigest():
                raise Reconsider(f"{arguments.resource} {arguments.name} is another one than people saw")
        await agent.delete(arguments.resource, arguments.name, uid=uid)
        return _ok(f"deleted {arguments.resource} {arguments.name}")


def _must_be_approved(manifest: Object, seen: DryRun, agent: AgentCluster, acting: Acting) -> None:
    """Raises `Reconsider`, remembering the dry run for the next card, where people have not seen this change."""
    approved = acting.foreseen
    # without one the card showed the manifest: it may be made as it stands, and nothing that exists is changed unseen
    is_plain = seen.is_new and not unasked(manifest, seen.changes)
    is_as_seen = approved == words.digest_of(seen) if approved else is_plain
    if is_as_seen:
        return
    while len(agent.learned) >= LEARNED_LIMIT:
        agent.learned.pop(next(iter(agent.learned)))
    agent.learned[words.manifest_digest(manifest)] = seen
    raise Reconsider(f"the dry run shows {len(seen.changes)} changed fields that people have not seen")


async def _before(agent: AgentCluster) -> list[str]:
    return [words.already(await agent.rights())]


async def _told(ask: Callable[[], Awaitable[ToolResult]]) -> ToolResult:
    """What the cluster refuses, in words that the agent can go on with."""
    try:
        return await ask()
    except NotPermitted as error:
        return failed(f"Kubernetes refuses this to your account, and nothing was changed: {_bounded(error)}")
    except NotThere as error:
        return failed(f"There is no such thing in your namespace: {_bounded(error)}")
    except NotAccepted as error:
        return failed(f"Kubernetes does not take it, and nothing was changed: {_bounded(error)}")


def _agent(sandbox: Sandbox) -> AgentCluster:
    if not isinstance(sandbox, OnCluster):
        raise ToolRefusal("this run's sandbox is not on a cluster")
    return sandbox.agent


def _ok(said: str) -> ToolResult:
    return ToolResult(ResultStatus.OK, said)


def _uid(found: Json) -> str:
    return str(child(found, "metadata", "uid") or "")


def _bounded(error: Exception) -> str:
    return visible(str(error)[:1500], is_exact=False)
