"""Prepared namespaces, bound late: everything in place and a warm pod, but nobody's until a run claims one.

A claim is one conditional update in the book, with its entry, and then a JSON patch with a `test` on the namespace's
resourceVersion, while the connection to the warm pod is already being made. A member that turns out broken costs the
run nothing but the ordinary cold start. Used namespaces are destroyed, never returned.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from ringfence_sandbox.contract import SandboxId, SandboxSpec
from ringfence_sandbox.errors import SandboxError
from ringfence_sandbox.kubernetes import kinds, names, objects
from ringfence_sandbox.kubernetes.api import ClusterApi
from ringfence_sandbox.kubernetes.errors import Conflict
from ringfence_sandbox.kubernetes.json_value import Json, Object, labels_of, name_of, strings, text
from ringfence_sandbox.kubernetes.objects import shape_digest
from ringfence_sandbox.kubernetes.pool_book import Bounds, Member, PoolBook
from ringfence_sandbox.kubernetes.settings import ClusterSettings

LOOK_S = 1.0
RECONCILE_S = 60.0
CUT_OFF_S = 300.0
AT_ONCE = 2
REMEMBERED = 32


class Builder(Protocol):
    """What the backend does for its pool."""

    @property
    def cold_starts(self) -> int:
        """How many runs wait for a cold start right now."""

    async def prepare(self, spec: SandboxSpec, namespace: str) -> Member:
        """Build a namespace that is nobody's, and show its fence. Raises `SandboxError`, leaving nothing."""

    async def remove(self, namespace: str) -> None: ...


class Pool:
    """The prepared namespaces of one installation. `claim` anywhere; `keep` in the processes that fill it."""

    def __init__(
        self, api: ClusterApi, settings: ClusterSettings, book: PoolBook, *, bounds: Bounds, builder: Builder
    ) -> None:
        self._api = api
        self._settings = settings
        self._book = book
        self._bounds = bounds
        self._builder = builder
        self._templates: dict[str, SandboxSpec] = {}
        """The shapes that runs asked for in this process, the latest last: what is kept ready."""
        self._news = asyncio.Event()
        self._making: set[asyncio.Task[None]] = set()
        self._log = logging.getLogger("ringfence.pool")

    # -- claiming --------------------------------------------------------------------------------------------------

    async def claim(self, spec: SandboxSpec) -> Member | None:
        """A member that is this sandbox's from now on, durably; None where a cold start must do."""
        shape = shape_digest(spec, self._settings)
        self.want(spec)
        member = await self._book.claim(shape, spec.id, run=spec.labels.get("run", ""))
        self._news.set()
        return member

    async def bind(self, member: Member, spec: SandboxSpec) -> None:
        """Make the namespace the sandbox's own. Raises `Conflict` where somebody else changed it meanwhile."""
        try:
            await self._patch(member.namespace, member.version, spec)
        except Conflict:
            found = await self._api.get(kinds.NAMESPACE, member.namespace)
            if labels_of(found).get(names.STATE) != "pooled" or text(found, "metadata", "deletionTimestamp"):
                raise
            await self._patch(member.namespace, text(found, "metadata", "resourceVersion"), spec)

    async def _patch(self, namespace: str, version: str, spec: SandboxSpec) -> None:
        wanted = objects.namespace_object(namespace, spec, self._settings, state="running")
        labels, annotations = labels_of(wanted), strings(wanted, "metadata", "annotations")
        operations: list[Json] = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": version},
            {"op": "test", "path": _pointer("labels", names.STATE), "value": "pooled"},
            {"op": "remove", "path": _pointer("labels", names.POOL)},
        ]
        operations += [{"op": "add", "path": _pointer("labels", key), "value": labels[key]} for key in sorted(labels)]
        operations += [
            {"op": "add", "path": _pointer("annotations", key), "value": annotations[key]}
            for key in sorted(annotations)
        ]
        await self._api.json_patch(kinds.NAMESPACE, namespace, operations)

    async def discard(self, member: Member) -> None:
        """A claimed member is broken, or its claim was cut off: it goes, and nobody ever uses it."""
        await self._remove(member.namespace)

    # -- filling ---------------------------------------------------------------------------------------------------

    def want(self, spec: SandboxSpec) -> None:
        """Keep namespaces of this shape ready."""
        shape = shape_digest(spec, self._settings)
        self._templates.pop(shape, None)
        self._templates[shape] = replace(spec, id=SandboxId("pooled"), environment={}, labels=_of_profile(spec))
        while len(self._templates) > REMEMBERED:
            del self._templates[next(iter(self._templates))]

    async def keep(self, *, until: Callable[[], bool] = lambda: False) -> None:
        """Fill and trim until cancelled or `until`. What fails is logged and tried again."""
        reconcile_in_s = 0.0
        try:
            while not until():
                self._news.clear()
                try:
                    if reconcile_in_s <= 0:
                        await self.reconcile()
                        reconcile_in_s = RECONCILE_S
                    await self.fill()
                    await self.trim()
                except SandboxError as error:
                    self._log.warning("the pool cannot be kept, to be tried again: %s", error)
                try:
                    async with asyncio.timeout(LOOK_S):
                        await self._news.wait()
                except TimeoutError:
                    reconcile_in_s -= LOOK_S
        finally:
            for task in self._making:
                task.cancel()
            await asyncio.gather(*self._making, return_exceptions=True)

    async def fill(self) -> None:
        """Begin to make what is wanted, a few at once; nothing while a run waits for a cold start."""
        for shape, spec in reversed(list(self._templates.items())):
            while len(self._making) < AT_ONCE and not self._builder.cold_starts:
                namespace = names.pooled_namespace(os.urandom(8).hex())
                if not await self._book.reserve(namespace, shape, self._bounds):
                    break
                task = asyncio.create_task(self._make(spec, namespace))
                self._making.add(task)
                task.add_done_callback(self._made)

    def _made(self, task: asyncio.Task[None]) -> None:
        self._making.discard(task)
        self._news.set()

    async def _make(self, spec: SandboxSpec, namespace: str) -> None:
        try:
            await self._book.enter(await self._builder.prepare(spec, namespace))
        except SandboxError as error:
            self._log.warning("%s could not be prepared: %s", namespace, error)
            # a shape that cannot be built is not tried again until a run asks for it
            self._templates.pop(shape_digest(spec, self._settings), None)
            await self._book.forget(namespace)

    async def trim(self) -> None:
        """Remove what is too many or too old, the latter also of shapes that nobody asks for any more."""
        while (namespace := await self._book.expire(self._bounds)) is not None:
            await self._remove(namespace)
        for shape in list(self._templates):
            while (namespace := await self._book.retire(shape, self._bounds)) is not None:
                await self._remove(namespace)

    async def _remove(self, namespace: str) -> None:
        await self._builder.remove(namespace)
        await self._book.forget(namespace)

    async def reconcile(self) -> None:
        """Remove namespaces that the book does not know (their maker died), and forget those never finished.

        The cluster is listed first: a member is in the book before it is on the cluster.
        """
        ours = f"{names.MANAGED_BY}={names.MANAGER},{names.INSTANCE}={self._settings.instance},{names.POOL}"
        there = await self._api.list(kinds.NAMESPACE, selector=ours)
        cut_off = await self._book.cut_off(older_than_s=CUT_OFF_S)
        known = await self._book.known() - cut_off
        for namespace in {name_of(one) for one in there if _is_standing(one)} - known:
            await self._builder.remove(namespace)
        for namespace in cut_off:
            await self._book.forget(namespace)


def _is_standing(namespace: Object) -> bool:
    return not text(namespace, "metadata", "deletionTimestamp")


def _of_profile(spec: SandboxSpec) -> dict[str, str]:
    return {"profile": spec.labels["profile"]} if spec.labels.get("profile") else {}


def _pointer(group: str, key: str) -> str:
    """RFC 6901."""
    return f"/metadata/{group}/{key.replace('~', '~0').replace('/', '~1')}"
