"""The run's own ServiceAccount at work, for the `kubernetes` tools: a short-lived token, held here and never inside.

The orchestrator asks for the token and sets what a grant opens; everything else is sent as the run's account, so the
API server itself enforces the limit.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from ringfence_sandbox.errors import ProtocolViolation
from ringfence_sandbox.kubernetes import agent_objects, kinds, names
from ringfence_sandbox.kubernetes.agent_objects import GRANT
from ringfence_sandbox.kubernetes.agent_port import (
    DryRun,
    Found,
    Held,
    NotAccepted,
    NotPermitted,
    NotThere,
    Resource,
    Right,
    Seen,
)
from ringfence_sandbox.kubernetes.api import ClusterApi
from ringfence_sandbox.kubernetes.errors import Conflict, ObjectNotFound, QuotaFull, RequestRefused
from ringfence_sandbox.kubernetes.json_value import (
    Json,
    Object,
    child,
    labels_of,
    mapping,
    name_of,
    objects,
    text,
)
from ringfence_sandbox.kubernetes.streams import PortForward

TOKEN_S: Final = 600
RENEW_AFTER_S: Final = 300.0
ANSWER_BYTES: Final = 16 << 10
LOG_BYTES: Final = 256 << 10
MANAGER: Final = "agent"
BOUND_WITHIN_S: Final = 5.0

KINDS: Final = {
    kind.plural: kind
    for kind in (
        *(kinds.POD, kinds.CONFIG_MAP, kinds.SERVICE, kinds.EVENT, kinds.DEPLOYMENT, kinds.REPLICA_SET),
        *(kinds.STATEFUL_SET, kinds.JOB, kinds.CRON_JOB),
    )
}


class RunAccount:
    """Implements `AgentCluster` for one run's namespace. Close it with the sandbox."""

    def __init__(
        self, orchestrator: ClusterApi, namespace: str, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._orchestrator = orchestrator
        self._namespace = namespace
        self._monotonic = monotonic
        self._api: ClusterApi | None = None
        self._token_at = 0.0
        self._renewing = asyncio.Lock()
        self._holding = asyncio.Lock()
        self._held: dict[str, Held] | None = None
        self.learned: dict[str, DryRun] = {}

    async def close(self) -> None:
        if self._api is not None:
            api, self._api = self._api, None
            await api.close()

    # -- as the run's account ------------------------------------------------------------------------------------

    async def get(self, resource: Resource, name: str) -> Object:
        async with self._as_agent() as api:
            return await api.get(KINDS[resource], name, namespace=self._namespace)

    async def list(self, resource: Resource, *, selector: str, limit: int) -> Found:
        query = {"limit": str(limit)} | ({"labelSelector": selector} if selector else {})
        async with self._as_agent() as api:
            answer = await api.page(KINDS[resource], namespace=self._namespace, query=query)
        return Found(objects(answer, "items")[:limit], bool(text(answer, "metadata", "continue")))

    async def watch(self, resource: Resource, *, selector: str, seconds: int, limit: int) -> Sequence[Seen]:
        """What changes within `seconds`, beginning with what is there; ends early after `limit` events."""
        seen: list[Seen] = []
        async with self._as_agent() as api:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    changes = api.watch(
                        KINDS[resource], namespace=self._namespace, selector=selector, timeout_s=seconds
                    )
                    async for change in changes:
                        if change.type != "BOOKMARK":
                            seen.append(Seen(change.type, change.object))
                        if len(seen) >= limit:
                            break
        return seen

    async def logs(self, pod: str, *, container: str, lines: int, is_previous: bool) -> bytes:
        async with self._as_agent() as api:
            return await api.logs(
                self._namespace,
                pod,
                container=container,
                tail_lines=lines,
                limit_bytes=LOG_BYTES,
                is_previous=is_previous,
            )

    async def dry_run(self, manifest: Object) -> DryRun:
        async with self._as_agent() as api:
            after = await api.apply(self._at_home(manifest), dry_run=True, manager=MANAGER)
            before = await api.find(kinds.kind_of(manifest), name_of(manifest), namespace=self._namespace)
        return DryRun(before is None, agent_objects.changes(before, after))

    async def apply(self, manifest: Object) -> Object:
        async with self._as_agent() as api:
            return await api.apply(self._at_home(manifest), manager=MANAGER)

    async def delete(self, resource: Resource, name: str, *, uid: str) -> None:
        async with self._as_agent() as api:
            await api.delete(KINDS[resource], name, namespace=self._namespace, uid=uid)

    async def probe(self, pod: str, port: int, *, send: bytes, seconds: float) -> bytes:
        loop = asyncio.get_running_loop()
        async with self._as_agent() as api:
            forward = await PortForward.open(api, self._namespace, pod, port)
            heard = bytearray()
            try:
                async with asyncio.timeout(seconds):
                    await loop.sock_sendall(forward.socket, send)
                    while len(heard) < ANSWER_BYTES and (part := await loop.sock_recv(forward.socket, ANSWER_BYTES)):
                        heard += part
            except TimeoutError:
                if not heard:
                    return b""
            except OSError as error:
                raise NotThere(f"port {port} of {pod} was closed: {error}") from error
            finally:
                forward.socket.close()
                await forward.close()
            if not heard and forward.failure and "closed on our side" not in forward.failure:
                raise NotThere(f"port {port} of {pod} did not answer: {forward.failure[:300]}")
            return bytes(heard[:ANSWER_BYTES])

    async def rights(self) -> Sequence[Right]:
        async with self._as_agent() as api:
            answer = await api.review(kinds.RULES_REVIEW, {"namespace": self._namespace})
        return agent_objects.rights_of(answer)

    # -- as the orchestrator -------------------------------------------------------------------------------------

    async def hold(self, grants: Sequence[Held]) -> None:
        wanted = {grant.id: grant for grant in grants}
        async with self._holding:
            if self._held is None:
                # after a restart nobody knows what an earlier worker left standing
                self._held = dict.fromkeys(await self._standing(), Held("", (), 0))
            for id in set(self._held) - set(wanted):
                await remove_grant(self._orchestrator, self._namespace, f"grant-{id}")
                del self._held[id]
            for id, grant in wanted.items():
                if self._held.get(id) != grant:
                    await self._open(grant)
                    self._held[id] = grant

    async def _standing(self) -> Sequence[str]:
        found = await self._orchestrator.list(kinds.ROLE, namespace=self._namespace, selector=GRANT)
        return [labels_of(one)[GRANT] for one in found]

    async def _open(self, grant: Held) -> None:
        try:
            await mark_granted(self._orchestrator, self._namespace)
            await self._orchestrator.apply(agent_objects.grant_role(self._namespace, grant))
            await self._orchestrator.apply(agent_objects.grant_binding(self._namespace, grant))
        except RequestRefused as error:
            raise NotPermitted(f"this cannot be granted on the cluster: {error}") from error
        await self._until_bound(grant)

    async def _until_bound(self, grant: Held) -> None:
        """A binding counts a moment after it was made; what is asked before would be refused for nothing."""
        right = grant.rights[0]
        resource, _, part = right.resource.partition("/")
        asked: dict[str, Json] = {"verb": right.verb, "group": right.group, "resource": resource, "subresource": part}
        asked |= {"name": right.name, "namespace": self._namespace}
        try:
            async with asyncio.timeout(BOUND_WITHIN_S), self._as_agent() as api:
                pause_s = 0.01
                while True:
                    answer = await api.review(kinds.ACCESS_REVIEW, {"resourceAttributes": asked})
                    if child(answer, "status", "allowed") is True:
                        return
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 2, 0.5)
        except TimeoutError as error:
            raise NotPermitted(f"what grant {grant.id} opens is not open after {BOUND_WITHIN_S:g} s") from error

    # -- token ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _as_agent(self) -> AsyncIterator[ClusterApi]:
        """The API under the run's account, errors in the tools' words. A role that was just bound gets a moment."""
        api = await self._account()
        try:
            yield api
        except RequestRefused as error:
            kind = NotPermitted if error.status == 403 or "denied request" in str(error) else NotAccepted
            raise kind(str(error)) from error
        except (QuotaFull, Conflict) as error:
            raise NotAccepted(str(error)) from error
        except ObjectNotFound as error:
            raise NotThere(str(error)) from error
        except ProtocolViolation as error:
            raise NotAccepted(f"the API server's answer cannot be read: {error}") from error

    async def _account(self) -> ClusterApi:
        async with self._renewing:
            if self._api is None or self._monotonic() - self._token_at > RENEW_AFTER_S:
                await self.close()
                token = await self._orchestrator.token(self._namespace, names.SERVICE_ACCOUNT, expiry_s=TOKEN_S)
                self._api, self._token_at = self._orchestrator.with_token(token), self._monotonic()
            return self._api

    def _at_home(self, manifest: Object) -> Object:
        return {**manifest, "metadata": {**mapping(manifest, "metadata"), "namespace": self._namespace}}


async def mark_granted(api: ClusterApi, namespace: str) -> None:
    """So that a sweeper finds the namespace without looking into every one."""
    path = f"/metadata/labels/{GRANT.replace('/', '~1')}"
    await api.json_patch(kinds.NAMESPACE, namespace, [{"op": "add", "path": path, "value": ""}])


async def remove_grant(api: ClusterApi, namespace: str, name: str) -> None:
    await api.delete(kinds.ROLE_BINDING, name, namespace=namespace)
    await api.delete(kinds.ROLE, name, namespace=namespace)


async def standing_grants(api: ClusterApi, instance: str) -> Mapping[str, str]:
    """Every grant that stands on the cluster: `NAMESPACE/ROLE` → its id. A namespace where one may
    stand unseen is an error in the log of the process."""
    found: dict[str, str] = {}
    for space in await api.list(kinds.NAMESPACE, selector=f"{names.INSTANCE}={instance},{GRANT}"):
        place = name_of(space)
        try:
            roles = await api.list(kinds.ROLE, namespace=place, selector=GRANT)
        except RequestRefused as error:
            # in one that is going away our own right went first, and its roles go with it
            if await _is_staying(api, place):
                # said, and no reason to leave the grants of all others standing
                logging.getLogger("ringfence.grants").error("grants in %s cannot be looked at: %s", place, error)
            continue
        found |= {f"{place}/{name_of(role)}": labels_of(role)[GRANT] for role in roles}
    return found


async def _is_staying(api: ClusterApi, place: str) -> bool:
    space = await api.find(kinds.NAMESPACE, place)
    return space is not None and not text(space, "metadata", "deletionTimestamp")
