"""The Kubernetes backend: a namespace for every sandbox, closed before it is handed out."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from ringfence_sandbox import cloning
from ringfence_sandbox.contract import Backend, EgressGatekeeper, Layer, Sandbox, SandboxId, SandboxSpec
from ringfence_sandbox.errors import (
    IsolationUnavailable,
    ProtocolViolation,
    SandboxBusy,
    SandboxError,
    SandboxGone,
    SandboxRemoved,
)
from ringfence_sandbox.kubernetes import kinds, names, objects, rights_check, trust, waiting
from ringfence_sandbox.kubernetes.agent_api import remove_grant, standing_grants
from ringfence_sandbox.kubernetes.api import ClusterApi
from ringfence_sandbox.kubernetes.credentials import ControlKey
from ringfence_sandbox.kubernetes.egress_identity import Carried, WayOut
from ringfence_sandbox.kubernetes.errors import Conflict, QuotaFull, RequestRefused
from ringfence_sandbox.kubernetes.json_value import Object, labels_of, name_of, strings, text
from ringfence_sandbox.kubernetes.link import Link, Linked
from ringfence_sandbox.kubernetes.objects import shape_digest
from ringfence_sandbox.kubernetes.pool_book import Bounds, Member, PoolBook
from ringfence_sandbox.kubernetes.pools import Pool
from ringfence_sandbox.kubernetes.sandbox import KubernetesSandbox
from ringfence_sandbox.kubernetes.settings import ClusterSettings
from ringfence_sandbox.kubernetes.waiting import PodView

NONCE = "ringfence/nonce"
DESTROY_WITHIN_S = 120.0
BIND_WITHIN_S = 1.5
BROKEN = (SandboxGone, SandboxBusy, ProtocolViolation, IsolationUnavailable)
"""What a claimed member's start may fail with: then an ordinary start does, which says for itself what is wrong."""
LINE_BYTES = 2000


def utc_now() -> datetime:
    return datetime.now(UTC)


class KubernetesBackend(Backend):
    """One per process. All its state is in the cluster: labels on namespaces say which sandbox lives where."""

    def __init__(
        self,
        api: ClusterApi,
        settings: ClusterSettings,
        key: ControlKey,
        *,
        way_out: WayOut | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        """`way_out` is needed where the settings name a proxy: without it no command is told of one."""
        self.api = api
        self.settings = settings
        self._key = key
        self._egress = way_out
        self._now = now
        self._open: dict[SandboxId, KubernetesSandbox] = {}
        self._log = logging.getLogger("ringfence.kubernetes")
        self.pool: Pool | None = None
        """Set with `use_pool`. Without it every start is a cold one."""
        self.cold_starts = 0

    @classmethod
    async def open(
        cls,
        settings: ClusterSettings,
        *,
        key: ControlKey,
        way_out: WayOut | None = None,
        kubeconfig: Path | None = None,
    ) -> KubernetesBackend:
        """Connect with a kubeconfig, or as the pod's own ServiceAccount. Raises `IsolationUnavailable`."""
        api = await ClusterApi.open(kubeconfig, patience_s=settings.api_patience_s)
        return cls(api, settings, key, way_out=way_out)

    def use_pool(self, book: PoolBook, bounds: Bounds) -> Pool:
        """Claim from prepared namespaces from now on; whoever runs the returned pool's `keep` fills it."""
        self.pool = Pool(self.api, self.settings, book, bounds=bounds, builder=self)
        return self.pool

    @property
    def kind(self) -> str:
        return "kubernetes"

    async def check(self) -> Sequence[Layer]:
        try:
            version = await self.api.version()
        except SandboxError as error:
            raise IsolationUnavailable(
                f"the cluster does not answer: {error}", fix="check the kubeconfig, the network and the API server"
            ) from error
        layers = [Layer("api-server", True, version)]
        layers.append(
            Layer(
                "user-namespace",
                self.settings.has_user_namespaces,
                "hostUsers: false" if self.settings.has_user_namespaces else "switched off in the settings",
            )
        )
        layers.append(Layer("network-policy", True, "shown from inside every pod before it is handed out"))
        if who := rights_check.orchestrator_of(self.settings):
            tried = await rights_check.must_hold(self.api, who, now=self._now())
            layers.append(Layer("orchestrator-rights", True, f"all {len(tried)} attacks were refused"))
        return layers

    # -- create --------------------------------------------------------------------------------------------------

    async def create(self, spec: SandboxSpec, *, egress: EgressGatekeeper | None = None) -> Sandbox:
        self._must_fit(spec)
        if isinstance(egress, Carried):
            return await self._create_cold(spec, carried=egress.carried())
        if self.pool is not None and (member := await self.pool.claim(spec)) is not None:
            try:
                return await self._bind(self.pool, member, spec)
            except BROKEN as error:
                self._log.warning("%s was claimed and is broken, so %s starts cold: %s", member, spec.id, error)
                await self.pool.discard(member)
        return await self._create_cold(spec)

    async def _create_cold(self, spec: SandboxSpec, *, carried: str = "") -> Sandbox:
        namespace = names.cold_namespace(spec.id)
        self.cold_starts += 1
        await self._claim_name(spec, namespace)
        try:
            view = await self._build(spec, namespace, state="running")
            seen = await self._network_seen(namespace)
            return await self._enter(spec, namespace, view, seen=seen, carried=carried)
        except BaseException:
            # whatever went wrong, half a sandbox is never left behind; cancellation included
            await asyncio.shield(self._abandon(namespace))
            raise
        finally:
            self.cold_starts -= 1

    async def _bind(self, pool: Pool, member: Member, spec: SandboxSpec) -> Sandbox:
        """A claimed member becomes the sandbox: its namespace is relabelled while the connection is made."""
        view = PodView(member.pod_uid, member.address, 0)
        link = Link(self.api, self.settings, self._key, member.namespace, self._now)
        binding = asyncio.ensure_future(pool.bind(member, spec))
        try:
            linked = await link.connect_to(view, timeout_s=BIND_WITHIN_S)
        finally:
            await asyncio.gather(binding, return_exceptions=True)
        try:
            binding.result()
            return await self._hold(spec, link, linked, seen=member.seen)
        except BaseException:
            await linked.connection.close()
            await link.let_go()
            raise

    async def prepare(self, spec: SandboxSpec, namespace: str) -> Member:
        """Build a namespace that is nobody's, and show its fence. Raises `SandboxError`, leaving nothing."""
        await self.api.create(objects.namespace_object(namespace, spec, self.settings, state="pooled"))
        try:
            view = await self._build(spec, namespace, state="pooled")
            seen = await self._network_seen(namespace)
            # nobody's yet, so without a credential
            shown = await self._enter(replace(spec, has_egress=False), namespace, view, seen=seen)
            self._open.pop(spec.id, None)
            await shown.let_go()
            found = await self.api.get(kinds.NAMESPACE, namespace)
        except BaseException:
            await asyncio.shield(self._abandon(namespace))
            raise
        version = text(found, "metadata", "resourceVersion")
        return Member(namespace, shape_digest(spec, self.settings), version, view.uid, view.address, seen)

    async def remove(self, namespace: str) -> None:
        """Ask for a namespace's removal; what is left of it goes by itself."""
        await self.api.delete(kinds.NAMESPACE, namespace)

    def _must_fit(self, spec: SandboxSpec) -> None:
        if not names.is_sandbox_id(spec.id):
            raise IsolationUnavailable(f"{spec.id!r} is no sandbox id", fix="use lower-case letters, digits, hyphens")
        if spec.mounts:
            raise IsolationUnavailable(
                "a cluster cannot show trees of the control plane's machine",
                fix="leave the mounts out of the profile, or put the files into the image",
            )
        if not self.settings.has_user_namespaces and not spec.is_reduced_allowed:
            raise IsolationUnavailable(
                "this cluster is set to run without user namespaces",
                fix="use nodes that offer them, or name the reduced level in the profile",
            )

    async def _claim_name(self, spec: SandboxSpec, namespace: str) -> None:
        """Make the namespace, or find that a lost answer of ours made it. Raises `SandboxBusy` where another did."""
        nonce = os.urandom(8).hex()
        wanted = objects.namespace_object(namespace, spec, self.settings, state="running")
        annotated = objects.annotated(wanted, {NONCE: nonce})
        try:
            await self.api.create(annotated)
        except Conflict as error:
            found = await self.api.find(kinds.NAMESPACE, namespace)
            if found is None or strings(found, "metadata", "annotations").get(NONCE) != nonce:
                raise SandboxBusy(f"sandbox {spec.id} exists already: attach to it or destroy it first") from error

    async def _build(self, spec: SandboxSpec, namespace: str, *, state: str) -> PodView:
        """Fence first, then the pod, then wait. The fence's objects do not depend on each other."""
        made = objects.build(
            spec,
            self.settings,
            namespace=namespace,
            state=state,
            credential=self._key.server_files(namespace, now=self._now()),
        )
        for thing in made.orchestrator:
            await self.api.apply(thing)
        is_fresh = bool(made.orchestrator)
        await _together(self._apply_early(thing, is_fresh=is_fresh) for thing in made.fence)
        pod = await self._apply_pod(made.pod)
        return await waiting.until_running(self.api, namespace, pod, timeout_s=self.settings.start_timeout_s)

    async def _apply_early(self, thing: Object, *, is_fresh: bool) -> Object:
        """A right that was bound just now may not be known to the authoriser for a moment, which answers 403."""
        for attempt in range(40):
            try:
                return await self.api.apply(thing)
            except RequestRefused as error:
                if not is_fresh or error.status != 403 or attempt == 39:
                    raise
                await asyncio.sleep(0.05)
        raise AssertionError("unreachable")

    async def _apply_pod(self, pod: Object) -> Object:
        """The quota counts only once its controller has seen it; until then the pod is refused for a moment."""
        for attempt in range(200):
            try:
                return await self.api.apply(pod)
            except QuotaFull as error:
                if "status unknown" not in str(error) or attempt == 199:
                    raise
                await asyncio.sleep(0.005 * (1 + attempt // 10))
        raise AssertionError("unreachable")

    async def _enter(
        self, spec: SandboxSpec, namespace: str, view: PodView, *, seen: str, carried: str = ""
    ) -> KubernetesSandbox:
        link = Link(self.api, self.settings, self._key, namespace, self._now)
        linked = await link.connect_to(view, timeout_s=self.settings.start_timeout_s)
        return await self._hold(spec, link, linked, seen=seen, carried=carried)

    async def _hold(
        self, spec: SandboxSpec, link: Link, linked: Linked, *, seen: str, carried: str = ""
    ) -> KubernetesSandbox:
        """A sandbox over a connection. Raises `IsolationUnavailable` where its fence lacks a layer."""
        layers = self._layers(spec, linked, seen)
        missing = [layer for layer in layers if not layer.is_held]
        if missing and not spec.is_reduced_allowed:
            await linked.connection.close()
            await link.let_go()
            raise IsolationUnavailable(
                f"{missing[0].name} does not hold in {link.namespace}: {missing[0].detail}",
                fix="mend the nodes, or name the reduced level in the profile",
            )
        try:
            told = await self._way_out(spec, linked, carried)
        except BaseException:
            await linked.connection.close()
            await link.let_go()
            raise
        sandbox = KubernetesSandbox(
            spec.id,
            linked,
            layers,
            link=link,
            environment={**told, **spec.environment},
            on_suspend=self._suspend,
        )
        self._open[spec.id] = sandbox
        return sandbox

    async def _way_out(self, spec: SandboxSpec, linked: Linked, carried: str) -> Mapping[str, str]:
        """What tells commands of the proxy, with a credential that is good from this pod's address only."""
        how = self.settings
        if not spec.has_egress or not how.egress_address or self._egress is None:
            return {}
        address = linked.pod.address
        await self._egress.addresses.stands(spec.id, address)
        token = self._egress.key.token(spec.id, address, carried=carried)
        return await trust.tell(linked.connection, spec, how, self._egress.key, token=token)

    def _layers(self, spec: SandboxSpec, linked: Linked, seen: str) -> list[Layer]:
        """The fence as found: what stands in the pod by construction, and what was found inside."""
        found = [
            Layer("pod-security", True, "restricted, enforced at the latest version"),
            Layer("user-namespace", self.settings.has_user_namespaces, "hostUsers: false"),
            Layer("network", seen.startswith("closed"), seen or "nothing is known of it"),
            Layer("read-only-root", True, "no capabilities, no new privileges, seccomp RuntimeDefault"),
        ]
        if spec.runtime_class:
            found.append(Layer("runtime", True, spec.runtime_class))
        return found + [excused(layer, spec, self.settings) for layer in linked.greeting.layers]

    async def _network_seen(self, namespace: str) -> str:
        """What the pod's first container saw of the network before anything else of the pod could start.

        From its log, by the API server: that container is ours, and what runs in the other cannot write there.
        """
        try:
            said = await self.api.logs(
                namespace, names.POD, container=names.INSTALLER, tail_lines=1, limit_bytes=LINE_BYTES
            )
        except RequestRefused as error:
            return f"what the pod's first container saw cannot be read: {error}"
        return said.decode(errors="replace").strip()

    async def _abandon(self, namespace: str) -> None:
        try:
            await self.api.delete(kinds.NAMESPACE, namespace)
        except SandboxError:
            return  # the sweeper finds it by its label

    # -- attach, suspend -----------------------------------------------------------------------------------------

    async def attach(self, spec: SandboxSpec, *, egress: EgressGatekeeper | None = None) -> Sandbox:
        found = await self._find(spec.id)
        if found is None:
            raise SandboxRemoved(f"the namespace of sandbox {spec.id} was deleted, which ends its run")
        if earlier := self._open.pop(spec.id, None):
            await earlier.let_go()
        namespace = name_of(found)
        pod = await self.api.find(kinds.POD, names.POD, namespace=namespace)
        has_claim = bool(self.settings.storage_class)
        if pod is None or labels_of(found).get(names.STATE) == "suspended" or (has_claim and waiting.is_done(pod)):
            return await self._resume(spec, namespace)
        view = await waiting.until_running(self.api, namespace, pod, timeout_s=self.settings.start_timeout_s)
        return await self._enter(spec, namespace, view, seen=await self._network_seen(namespace))

    async def _resume(self, spec: SandboxSpec, namespace: str) -> Sandbox:
        if not self.settings.storage_class:
            raise SandboxGone(f"the pod in {namespace} is gone, and its files with it")
        # applying to one that is on its way out, or over, would bring it back no more
        await self.api.delete(kinds.POD, names.POD, namespace=namespace)
        await waiting.until_no_pod(self.api, namespace, timeout_s=self.settings.start_timeout_s)
        view = await self._build(spec, namespace, state="running")
        await self._mark(namespace, "running")
        return await self._enter(spec, namespace, view, seen=await self._network_seen(namespace))

    async def _suspend(self, sandbox: KubernetesSandbox) -> None:
        """With a volume claim the pod goes and the files stay; without one only the processes can end."""
        await sandbox.stop_processes()
        await sandbox.let_go()
        self._open.pop(sandbox.id, None)
        await self._leave(sandbox.id)
        if self.settings.storage_class:
            await self._mark(sandbox.namespace, "suspended")
            await self.api.delete(kinds.POD, names.POD, namespace=sandbox.namespace)

    async def _leave(self, sandbox: SandboxId) -> None:
        """Before the pod goes: its address may be another's a moment later."""
        if self._egress is not None:
            await self._egress.addresses.left(sandbox)

    async def _mark(self, namespace: str, state: str) -> None:
        path = f"/metadata/labels/{names.STATE.replace('/', '~1')}"
        await self.api.json_patch(kinds.NAMESPACE, namespace, [{"op": "replace", "path": path, "value": state}])

    async def _find(self, sandbox: SandboxId) -> Object | None:
        """The namespace of a sandbox, None where it is gone or going."""
        for found in await self._namespaces(f"{names.SANDBOX}={sandbox}"):
            if not text(found, "metadata", "deletionTimestamp"):
                return found
        return None

    async def _namespaces(self, selector: str) -> Sequence[Object]:
        ours = f"{names.MANAGED_BY}={names.MANAGER},{names.INSTANCE}={self.settings.instance}"
        return await self.api.list(kinds.NAMESPACE, selector=f"{ours},{selector}")

    # -- end -----------------------------------------------------------------------------------------------------

    async def destroy(self, sandbox: SandboxId) -> None:
        if opened := self._open.pop(sandbox, None):
            await opened.let_go()
        if not names.is_sandbox_id(sandbox):
            return
        await self._leave(sandbox)
        for found in await self._namespaces(f"{names.SANDBOX}={sandbox}"):
            await self._remove(name_of(found))

    async def _remove(self, namespace: str) -> None:
        # the pod at once: the namespace's controller begins after five seconds only
        await self.api.delete(kinds.POD, names.POD, namespace=namespace)
        await self.api.delete(kinds.NAMESPACE, namespace)
        await waiting.until_gone(self.api, namespace, timeout_s=DESTROY_WITHIN_S)

    async def sandboxes(self) -> frozenset[SandboxId]:
        """Every sandbox of this installation that is there, not on its way out, and no check or clone at work."""
        return frozenset(
            SandboxId(labels_of(namespace)[names.SANDBOX])
            for namespace in await self._namespaces(names.SANDBOX)
            if not text(namespace, "metadata", "deletionTimestamp") and not self._is_at_work(namespace)
        )

    def _is_at_work(self, namespace: Object) -> bool:
        """Whether `doctor` or a clone may still be at work in it: no run's row has it, its process may be anywhere."""
        age = self._now() - datetime.fromisoformat(text(namespace, "metadata", "creationTimestamp"))
        sandbox = labels_of(namespace)[names.SANDBOX]
        is_check = names.is_check(sandbox) and age < rights_check.ABANDONED_AFTER
        return is_check or (cloning.is_clone(sandbox) and age < cloning.ABANDONED_AFTER)

    async def grants(self) -> Mapping[str, str]:
        """What grants opened for runs and still stands: `NAMESPACE/ROLE` → the grant's id."""
        return await standing_grants(self.api, self.settings.instance)

    async def end_grant(self, where: str) -> None:
        """Take away what `grants` named."""
        namespace, _, role = where.partition("/")
        await remove_grant(self.api, namespace, role)

    async def sweep(self, live: frozenset[SandboxId]) -> Sequence[SandboxId]:
        left = sorted(await self.sandboxes() - live)
        await _together(self.destroy(sandbox) for sandbox in left)
        return left

    async def close(self) -> None:
        for sandbox in list(self._open.values()):
            await sandbox.let_go()
        self._open.clear()
        await self.api.close()


async def _together(doings: Iterable[Awaitable[object]]) -> None:
    """Do all at once. The first `SandboxError` is raised as itself, once all have ended."""
    results = await asyncio.gather(*doings, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


def excused(layer: Layer, spec: SandboxSpec, settings: ClusterSettings) -> Layer:
    """The layer as it counts: a kernel of the pod's own is a fence itself and often has no Landlock."""
    if layer.is_held or layer.name != "landlock" or spec.runtime_class not in settings.sandboxed_runtimes:
        return layer
    return Layer(layer.name, True, f"not there; {spec.runtime_class} has a kernel of its own: {layer.detail}")
