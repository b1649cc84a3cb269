"""The local backend: makes, finds and removes bubblewrap sandboxes below one state root."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from ringfence_sandbox import artifact
from ringfence_sandbox.contract import (
    Backend,
    EgressGatekeeper,
    Layer,
    Limits,
    Mount,
    Sandbox,
    SandboxId,
    SandboxSpec,
)
from ringfence_sandbox.egress import EgressSettings, RunAuthority
from ringfence_sandbox.egress.resolver import Resolver, SystemResolver
from ringfence_sandbox.errors import IsolationUnavailable, PathRefused, SandboxError
from ringfence_sandbox.inside import wire
from ringfence_sandbox.inside.journal import boot_id
from ringfence_sandbox.inside.layers import NAMESPACES
from ringfence_sandbox.local import bwrap, disk_image, ownership, seccomp
from ringfence_sandbox.local.disk_image import DiskImages, NoDisks
from ringfence_sandbox.local.environment import command_environment
from ringfence_sandbox.local.etc import prepared_etc
from ringfence_sandbox.local.launch import Launch, Launched, Outside, launch
from ringfence_sandbox.local.layout import Layout
from ringfence_sandbox.local.reach import Reach
from ringfence_sandbox.local.sandbox import LocalSandbox
from ringfence_sandbox.local.system_tree import SystemTree, system_tree
from ringfence_sandbox.local.trial import find_bwraps, try_first
from ringfence_sandbox.local.trust import TRUST, own_trust, shared_trust
from ringfence_sandbox.local.uids import FIRST, UidLeases

WRITABLE = ("/workspace", bwrap.HOME, "/tmp", "/dev", "/proc")  # noqa: S108 - inside
DISK_RESERVE_BYTES = 2 << 30
"""What stays free on the disk of the workspaces, or a twentieth of it where that is less."""
RESERVE_PART = 20
REACH = Path("/run/ringfence-reach")


@dataclass(slots=True)
class Ground:
    """What this process prepared once for all its sandboxes."""

    bwrap: Path
    others: list[Path]
    """Other copies of bubblewrap, to be tried with the full stack where this one is not let to build the fence."""
    tree: SystemTree
    artifact: Path
    seccomp: bytes
    reach: Reach | None
    trust: Path
    outside: Outside
    proc_names: frozenset[str]
    namespaces: Mapping[str, str]
    """What /proc/self/ns says of this process: what a sandbox must not share."""
    disks: DiskImages | None
    why_no_disks: str


class LocalBackend(Backend):
    """`root` holds everything (see `layout`). As root every sandbox gets a real uid of its own; else they share ours.

    `egress` is how this machine reaches the outside. What lies in `withheld`, the state and the keys of Ringfence, no
    sandbox is shown, whatever a PATH, a profile or a grant names. `fence` is for tests that remove one layer to see its
    probe fail, `resolver` for tests whose internet is on loopback; nothing else passes them.
    """

    def __init__(
        self,
        root: Path,
        *,
        egress: EgressSettings | None = None,
        withheld: Sequence[Path] = (),
        fence: bwrap.Fence | None = None,
        resolver: Resolver | None = None,
    ) -> None:
        self._layout = Layout(root)
        self._egress = egress or EgressSettings()
        self._withheld = (root, *withheld)
        self._resolver = resolver or SystemResolver()
        self._fence = fence or bwrap.Fence()
        self._leases = UidLeases(self._layout.uids)
        self._ground: Ground | None = None
        self._lock = asyncio.Lock()
        self._has_proved = False
        self._proving = asyncio.Lock()
        self._live: dict[SandboxId, LocalSandbox] = {}

    @property
    def kind(self) -> str:
        return "local"

    @property
    def _is_root(self) -> bool:
        return os.geteuid() == 0

    def _uid_for(self, id: SandboxId) -> int | None:
        return self._leases.take(id) if self._is_root and self._fence.has_own_uid else None

    async def check(self) -> Sequence[Layer]:
        id = SandboxId(f"check-{os.getpid()}-{os.urandom(4).hex()}")
        try:
            sandbox = await self.create(SandboxSpec(id))
            return sandbox.layers
        finally:
            await self.destroy(id)

    async def create(self, spec: SandboxSpec, *, egress: EgressGatekeeper | None = None) -> Sandbox:
        await self._prepared()
        self._layout.claim(spec.id)
        try:
            uid = self._uid_for(spec.id)
            await self._fill(spec, uid)
            return await self._start(spec, uid, egress)
        except BaseException:
            # Nothing half-made stays behind, whatever stopped it, a cancellation included.
            self._layout.remove(spec.id)
            self._leases.release(spec.id)
            raise

    async def _fill(self, spec: SandboxSpec, uid: int | None) -> None:
        disks = (await self._prepared()).disks
        self._layout.fill(spec.id, uid=uid, without=() if disks is None else disk_image.PARTS)
        if disks is not None:
            await disks.make(self._layout.sandbox(spec.id), spec.limits.disk_bytes)

    async def attach(self, spec: SandboxSpec, *, egress: EgressGatekeeper | None = None) -> Sandbox:
        self._layout.require(spec.id)
        await self._prepared()
        live = self._live.get(spec.id)
        if live is not None and live.is_running:
            await asyncio.to_thread(ownership.keep, self._layout.sandbox(spec.id), spec.fence)
            return live
        uid = self._uid_for(spec.id)
        return await self._start(spec, uid, egress)

    async def destroy(self, sandbox: SandboxId) -> None:
        live = self._live.pop(sandbox, None)
        if live is not None:
            await live.end()
        await asyncio.to_thread(ownership.evict, self._layout.sandbox(sandbox))
        await asyncio.to_thread(self._layout.remove, sandbox)
        self._leases.release(sandbox)

    async def sweep(self, live: frozenset[SandboxId]) -> Sequence[SandboxId]:
        if not self._layout.sandboxes.is_dir():
            return []
        found = [SandboxId(path.name) for path in self._layout.sandboxes.iterdir()]
        doomed = [id for id in found if id not in live]
        for id in doomed:
            await self.destroy(id)
        self._layout.sweep_scraps()
        return doomed

    async def close(self) -> None:
        for sandbox in list(self._live.values()):
            await sandbox.end()
        self._live.clear()
        if self._ground is not None and self._ground.disks is not None:
            self._ground.disks.close()
        if self._ground is not None and self._ground.reach is not None:
            self._ground.reach.close()
        self._ground = None

    def refuse_own(self, mounts: Sequence[Mount]) -> None:
        """Raise `PathRefused` for a tree of the host that would show what is Ringfence's own."""
        found = bwrap.first_within(mounts, self._withheld)
        if found is not None:
            raise PathRefused(f"{found[0].source} is not shown to an agent: {found[1]} is Ringfence's own")

    async def restart(self, spec: SandboxSpec, egress: EgressGatekeeper | None) -> Launched:
        """The processes of a sandbox anew, over its files, with the mounts of `spec`."""
        uid = self._uid_for(spec.id)
        return await self._launch(spec, uid, egress)

    async def _start(self, spec: SandboxSpec, uid: int | None, egress: EgressGatekeeper | None) -> LocalSandbox:
        launched = await self._launch(spec, uid, egress)
        layers = (*launched.greeting.layers, await self._disk_layer(spec.id))
        launched.greeting = replace(launched.greeting, layers=layers)
        sandbox = LocalSandbox(self, spec, launched, egress)
        try:
            sandbox.require(sandbox.layers)
            await self._prove_kind(sandbox)
            await sandbox.open_way_out(launched)
        except BaseException:
            await sandbox.end()
            raise
        self._live[spec.id] = sandbox
        return sandbox

    async def _disk_layer(self, id: SandboxId) -> Layer:
        if (self._layout.sandbox(id) / disk_image.IMAGE).exists():
            return Layer("disk", True, "a disk of its own, of a size")
        return Layer("disk", True, f"watched, not a disk of its own: {(await self._prepared()).why_no_disks}")

    async def _prove_kind(self, sandbox: LocalSandbox) -> None:
        """Every probe, before the first sandbox of this kind is used: once for this boot, this fence and this code."""
        if self._has_proved:
            return
        async with self._proving:
            if not self._has_proved:
                await self._prove_first(sandbox)

    async def _prove_first(self, sandbox: LocalSandbox) -> None:
        ground = await self._prepared()
        parts = (boot_id(), os.uname().release, str(os.geteuid()), str(ground.bwrap), ground.artifact.name)
        digest = hashlib.sha256(repr((*parts, self._fence, ground.seccomp, ground.tree)).encode()).hexdigest()[:16]
        marker = self._layout.root / f"proved-{digest}"
        if not marker.exists():
            proof = await sandbox.prove()
            sandbox.told(proof, of="this machine")
            if not proof.is_held:
                return
            for earlier in self._layout.root.glob("proved-*"):
                earlier.unlink(missing_ok=True)
            marker.write_text(f"{len(proof.probes)} probes held\n")
        self._has_proved = True

    async def _launch(self, spec: SandboxSpec, uid: int | None, egress: EgressGatekeeper | None) -> Launched:
        bwrap.refuse_mounts(spec.mounts)
        try:
            self.refuse_own(spec.mounts)
        except PathRefused as error:
            fix = "name another folder for it in RINGFENCE_HOME or RINGFENCE_CONFIG, or take the tree off the PATH"
            raise IsolationUnavailable(str(error), fix=f"{fix} or out of the profile") from error
        ground = await self._prepared()
        folder = self._layout.sandbox(spec.id)
        files = folder / disk_image.PLACE if (folder / disk_image.IMAGE).exists() else folder
        mounts = spec.mounts
        authority = RunAuthority.create(spec.id) if spec.has_egress and spec.ends_tls else None
        trust = ground.trust
        if authority is not None:
            trust = own_trust(folder, self._egress.certificates(), authority.certificate_pem)
        if ground.reach is not None:
            async with self._lock:
                ground.reach.reachable(*(mount.source for mount in mounts))
        order = Launch(
            bwrap=_placed(ground, ground.bwrap),
            arguments=bwrap.arguments(
                ground.tree,
                [Mount(_placed(ground, mount.source), mount.target) for mount in mounts],
                bwrap.Places(
                    workspace=_placed(ground, files / "workspace"),
                    home=_placed(ground, files / "home"),
                    state=_placed(ground, folder / "state"),
                    output=_placed(ground, folder / "output"),
                    artifact=_placed(ground, ground.artifact),
                    trust=_placed(ground, trust) if spec.has_egress else None,
                ),
                spec.limits,
                fence=self._fence,
                proc_names=ground.proc_names,
            ),
            python=ground.tree.python,
            config=self._config(spec, ground, has_own_disk=files != folder),
            seccomp=ground.seccomp if self._fence.has_seccomp else None,
            uid=uid,
            namespace_fd=ground.reach.namespace_fd if ground.reach is not None else None,
            outside=ground.outside,
            authority=authority,
        )
        await asyncio.to_thread(ownership.take_over, folder, spec.fence)
        try:
            async with self._disk(ground, folder, uid):
                launched = await launch(order, has_egress=egress is not None and spec.has_egress)
        except IsolationUnavailable:
            if not ground.others:
                raise
            # A profile of AppArmor may be bound to the distribution's path alone, and know nothing of a wheel's copy.
            ground.bwrap = ground.others.pop(0)
            return await self._launch(spec, uid, egress)
        try:
            ownership.settle(folder, spec.fence, launched.process.pid)
        except BaseException:
            # Another worker has it: this server, which nothing was asked of, must not go on beside its.
            await launched.connection.close()
            await asyncio.to_thread(launched.process.wait)
            raise
        return launched

    def _disk(self, ground: Ground, folder: Path, uid: int | None) -> AbstractAsyncContextManager[None]:
        """The sandbox's own disk, where it has one, in the place from which bubblewrap takes it over."""
        if not (folder / disk_image.IMAGE).exists():
            return nullcontext()
        if ground.disks is None:
            raise IsolationUnavailable(
                f"the files of {folder.name} lie on a disk of their own, which this process cannot mount"
                f" ({ground.why_no_disks})",
                fix="run Ringfence as root, where it ran when this sandbox was made",
            )
        return ground.disks.mounted(folder, _placed(ground, folder / disk_image.PLACE), uid or 0)

    def _config(self, spec: SandboxSpec, ground: Ground, *, has_own_disk: bool) -> dict[str, wire.Json]:
        shown = [*ground.tree.mounts, *spec.mounts]
        readable = sorted({str(mount.target) for mount in shown} | {bwrap.OUTPUT, str(TRUST)})
        config: dict[str, wire.Json] = {"machine_disk": bwrap.ARTIFACT} if has_own_disk else {}
        return config | {
            "workspace": "/workspace",
            "state": bwrap.STATE,
            "output": bwrap.OUTPUT,
            "environment": dict(command_environment(spec)),
            "readable": list(readable),
            "writable": [*WRITABLE],
            "is_confined": self._fence.has_landlock,
            "disk_paths": ["/workspace", bwrap.HOME],
            "limits": _limits(spec.limits, self._layout.root) if self._fence.has_limits else {},
            "fence": "linux",
            "host_namespaces": dict(ground.namespaces),
            "is_hardened": self._fence.hardens_server,
        }

    async def _prepared(self) -> Ground:
        async with self._lock:
            if self._ground is None:
                self._ground = await self._prepare()
            return self._ground

    async def _prepare(self) -> Ground:
        root = self._layout.root
        programs = find_bwraps()
        await try_first(programs, uid=FIRST if self._is_root and self._fence.has_own_uid else None)
        for folder in (root, self._layout.sandboxes):
            folder.mkdir(parents=True, exist_ok=True)
        data = artifact.pack(is_compiled=True)
        packed = root / f"inside-{hashlib.sha256(data).hexdigest()[:16]}.zip"
        if not packed.exists():
            artifact.write_artifact(packed, is_compiled=True)
        tree = system_tree(prepared_etc(root))
        trust = shared_trust(root, self._egress.certificates())
        outside = Outside(self._resolver, self._egress.proxy(), self._egress.client_context())
        reach = None
        if self._is_root:
            reach = await Reach.open(REACH)
            reach.reachable(*(mount.source for mount in tree.mounts), *programs, packed, trust, self._layout.sandboxes)
            mounts = tuple(Mount(reach.place(mount.source), mount.target) for mount in tree.mounts)
            tree = SystemTree(mounts, tree.links, tree.python)
        disks, why_no_disks = await self._disks(reach)
        names = frozenset(name for name in bwrap.HIDDEN_IN_PROC if _is_for_all(Path("/proc", name)))
        return Ground(
            programs[0], programs[1:], tree, packed, seccomp.program(), reach, trust, outside, names, _namespaces(),
            disks, why_no_disks,
        )  # fmt: skip

    async def _disks(self, reach: Reach | None) -> tuple[DiskImages | None, str]:
        """Or why there are none: then the disk is watched, and the sandbox's layers say so."""
        if reach is None or not self._fence.has_own_disk:
            return None, "only root can mount a disk for each sandbox" if reach is None else "switched off"
        try:
            return await DiskImages.open(self._layout.root, reach.namespace_fd), ""
        except NoDisks as error:
            return None, str(error)


def _placed(ground: Ground, path: Path) -> Path:
    return path if ground.reach is None else ground.reach.place(path)


def _namespaces() -> Mapping[str, str]:
    return {name: str(Path("/proc/self/ns", name).readlink()) for name in NAMESPACES}


def _is_for_all(path: Path) -> bool:
    return path.exists() and bool(path.stat().st_mode & stat.S_IROTH)


def _limits(limits: Limits, root: Path) -> dict[str, wire.Json]:
    """The spec's limits, and no more than this machine can spare: a limit larger than it is would be none."""
    found: dict[str, wire.Json] = {name: getattr(limits, name) for name in limits.__slots__}
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    disk = os.statvfs(root)
    return {
        **found,
        "memory_bytes": min(limits.memory_bytes, memory * 3 // 4),
        "disk_reserve_bytes": min(DISK_RESERVE_BYTES, disk.f_blocks * disk.f_frsize // RESERVE_PART),
    }


__all__ = ["LocalBackend", "SandboxError", "find_bwraps"]
