"""The one place where the rooms are put together: policy, gate, toolbox, model, sandbox, runner.

The store alone is opened in `local_store`, since most commands need nothing else and should not pay for more.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pydantic import ValidationError

from ringfence import models
from ringfence.auth.people import AccountDirectory
from ringfence.budgets import team_scopes
from ringfence.cluster import cluster_form, open_cluster
from ringfence.directory import LocalDirectory
from ringfence.errors import Mistake
from ringfence.settings import LOG_ORIGIN, Settings
from ringfence.sweeping import keep_swept
from ringfence_agents.lifesigns import worker_name
from ringfence_agents.model import Model
from ringfence_agents.ports import Equipment
from ringfence_agents.runs import RunRecord
from ringfence_audit.errors import LogUnavailable
from ringfence_audit.keys import Signer
from ringfence_audit.producers import CountedStore
from ringfence_audit.redaction import SHORTEST_VALUE
from ringfence_audit.store import SqlStore
from ringfence_sandbox.cloning import clone_spec
from ringfence_sandbox.contract import Backend, Bundle, ClusterRule, Limits, Mount, SandboxId, SandboxSpec
from ringfence_sandbox.egress import EgressSettings
from ringfence_sandbox.egress.errors import EgressMisconfigured
from ringfence_sandbox.kubernetes.agent_port import GROUP_OF
from ringfence_sandbox.local.backend import LocalBackend
from ringfence_sandbox.local.host_tree import toolchain_mounts
from ringfence_tools.builtin.toolset import builtin_toolbox, toolbox_for
from ringfence_tools.egress import RunEgress
from ringfence_tools.gate import Gate
from ringfence_tools.policy import Policy
from ringfence_tools.profile import Profile, parse_profile
from ringfence_tools.profile_model import SandboxForm
from ringfence_tools.progress import Progress
from ringfence_tools.toolbox import Toolbox

if TYPE_CHECKING:
    from ringfence_agents.runner import Runner


class Workshop:
    """What runs are made with in this process. Use it inside `open_workshop`, on one event loop."""

    def __init__(self, settings: Settings, store: SqlStore, directory: LocalDirectory) -> None:
        self.settings = settings
        self.store = store
        self.directory = directory
        self.toolbox: Toolbox = builtin_toolbox()
        self.egress = egress_of(settings)
        own = (settings.home, settings.config, settings.key_folder, settings.key_file)
        self._local = LocalBackend(settings.sandboxes, egress=self.egress, withheld=own)
        self._cluster: Backend | None = None
        self._sweeping: asyncio.Task[None] | None = None
        self._filling: asyncio.Task[None] | None = None
        self.fills_pool = False
        """Whether this process stays, and so keeps prepared namespaces ready."""
        self._opening = asyncio.Lock()
        self._models: dict[tuple[str, str], Model] = {}
        self._stack = AsyncExitStack()
        self._gate_log = _counted(settings, store, "gate")
        self._egress_log = _counted(settings, store, "egress")

    async def close(self) -> None:
        await self._stack.aclose()
        for log in (self._gate_log, self._egress_log):
            with suppress(LogUnavailable):  # what was not counted any more is in the log, and verify says so
                await log.sign()
        await self._local.close()
        for task in (self._sweeping, self._filling):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if self._cluster is not None:
            await self._cluster.close()

    async def cloner(self, profile: Profile) -> Backend:
        """Where a repository is cloned: on the cluster where its runs go there and have a way out, else here."""
        if profile.sandbox.kind == "kubernetes" and cluster_form(self.settings).egress is not None:
            return await self._checked_cluster()
        return self._local

    async def backend(self, profile: Profile) -> Backend:
        """Where runs of this profile execute. Raises `Mistake` for a kind that this command cannot give."""
        if profile.sandbox.kind == "local":
            return self._local
        if profile.sandbox.kind == "kubernetes":
            return await self._checked_cluster()
        raise Mistake(
            f"profile {profile.title} asks for a {profile.sandbox.kind} sandbox, which this command cannot start",
            fix="Use a profile with `sandbox: {kind: local}` or `{kind: kubernetes}`",
        )

    async def _checked_cluster(self) -> Backend:
        """The cluster, once its fence was attacked in vain. Raises `IsolationUnavailable` where an attack succeeds."""
        async with self._opening:
            if self._cluster is None:
                cluster = await open_cluster(self.settings, self.store, roots=self.egress.certificates())
                try:
                    await cluster.check()
                except BaseException:
                    await cluster.close()
                    raise
                self._cluster = cluster
                self._sweeping = asyncio.create_task(keep_swept(self.store, cluster), name="sweeper")
                if self.fills_pool and cluster.pool is not None:
                    self._filling = asyncio.create_task(cluster.pool.keep(), name="pool")
            return self._cluster

    def runner(self, progress: Progress) -> Runner:
        # LangGraph is a third of what all of this takes to import: who starts a run is told of it first.
        from ringfence_agents.runner import Runner

        worker = worker_name(socket.gethostname(), secrets.token_hex(2))
        return Runner(self.store, self._equip, worker=worker, progress=progress)

    async def _equip(self, record: RunRecord) -> Equipment:
        """Everything that the run's pinned profile gives it. Raises `Mistake` where its folder is not here."""
        if record.closing is None and not record.request.is_end:
            _check_folder(record)
        profile = parse_profile(record.profile_document.encode(), record.profile)
        policy = Policy.compile(profile)
        directory = AccountDirectory(self.store, self.directory)
        toolbox = toolbox_for(profile, self.toolbox)
        gate = Gate(self._gate_log, policy, toolbox, directory, end_run_at=profile.after_deny.end_run_at)
        scopes = await team_scopes(self.store, profile, record)
        person = record.on_behalf_of.removeprefix("person:")
        return Equipment(
            gate=gate,
            model=await self._model(record.model, profile, record.profile_digest),
            toolbox=toolbox,
            backend=await self.backend(profile),
            spec=lambda run, sandbox: spec_of(run, profile, sandbox),
            bundle=bundle_of,
            artifacts=self.settings.runs,
            scopes=lambda _: scopes,
            egress=lambda run: RunEgress(
                self._egress_log, policy, profile.network, run.id, person, secret=self._secret
            ),
        )

    def _secret(self, name: str) -> str | None:
        """A credential's value; from now on the log takes it out wherever it appears."""
        value = _environment_secret(name)
        if value is not None and len(value) >= SHORTEST_VALUE:
            self.store.redactor.hold(name, value)
        return value

    async def _model(self, word: str, profile: Profile, profile_digest: str) -> Model:
        key = (word, profile_digest)
        if key not in self._models:
            model = models.build(word, profile, self.settings, self.egress)
            close = getattr(model, "close", None)
            if close is not None:
                self._stack.push_async_callback(close)
            self._models[key] = model
        return self._models[key]


def _counted(settings: Settings, store: SqlStore, role: str) -> CountedStore:
    """The log as one producer writes it, who counts and signs with a key of its own."""
    signer = Signer.load_or_create(settings.home / f"{role}.key", f"{LOG_ORIGIN}/{role}")
    return CountedStore(store, signer, role=role)


@asynccontextmanager
async def open_workshop(settings: Settings, store: SqlStore, directory: LocalDirectory) -> AsyncIterator[Workshop]:
    """A workshop whose sandboxes' processes end with it; their files stay."""
    workshop = Workshop(settings, store, directory)
    try:
        yield workshop
    finally:
        await workshop.close()


def egress_of(settings: Settings) -> EgressSettings:
    """How this machine reaches the outside. Raises `Mistake`."""
    try:
        egress = EgressSettings.model_validate(settings.egress)
        egress.client_context()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise Mistake(
            f"RINGFENCE_EGRESS: {name}: {first['msg']}",
            fix='Write {"upstream": "http://proxy.example:3128", "direct": [".corp.example"], "ca_files": ["/ca.pem"]}',
        ) from error
    except EgressMisconfigured as error:
        raise Mistake(f"RINGFENCE_EGRESS: {error}", fix="Name files that hold certificates in PEM form") from error
    return egress


def spec_of(run: RunRecord, profile: Profile, sandbox: SandboxId) -> SandboxSpec:
    """The sandbox that the run's profile describes."""
    form = profile.sandbox
    is_local = form.kind != "kubernetes"
    shown, mounts = _of_this_machine(form) if is_local else ({}, ())
    return SandboxSpec(
        id=sandbox,
        labels={
            "run": run.id,
            "task": run.task,
            "team": run.team,
            "profile": profile.title,
            "person": run.on_behalf_of,
        },
        limits=limits_of(profile),
        environment={**shown, **form.environment},
        mounts=mounts,
        image=form.image or "",
        runtime_class=form.runtime_class or "",
        has_egress=True,
        ends_tls=bool(profile.network.credentials or profile.network.opened),
        is_reduced_allowed=form.reduced,
        cluster_rules=cluster_rules_of(profile),
    )


def clone_spec_of(profile: Profile) -> SandboxSpec:
    """What a repository for this profile is cloned in: as its runs' sandboxes are, with git of their image."""
    form = profile.sandbox
    if form.kind != "kubernetes":
        return clone_spec()
    return replace(
        clone_spec(),
        limits=limits_of(profile),
        image=form.image or "",
        runtime_class=form.runtime_class or "",
        is_reduced_allowed=form.reduced,
    )


def _of_this_machine(form: SandboxForm) -> tuple[Mapping[str, str], tuple[Mount, ...]]:
    """What a local sandbox shows of the machine: the tools on its PATH, and the profile's own mounts."""
    tree = toolchain_mounts(os.environ, Path(form.venv) if form.venv else None)
    own = tuple(Mount(Path(mount.source), PurePosixPath(mount.target)) for mount in form.mounts)
    return {"PATH": tree.path_variable, **tree.environment}, (*tree.mounts, *own)


def cluster_rules_of(profile: Profile) -> tuple[ClusterRule, ...]:
    """The Role of a run's own account, one rule for each group that the profile's resources come from."""
    rules: list[ClusterRule] = []
    for given in profile.tools.kubernetes or ():
        groups: dict[str, list[str]] = {}
        for resource in given.resources:
            groups.setdefault(GROUP_OF[resource.partition("/")[0]], []).append(resource)
        rules += [ClusterRule((group,), tuple(found), given.verbs) for group, found in groups.items()]
    return tuple(rules)


def limits_of(profile: Profile) -> Limits:
    """The profile's limits over the backend's defaults."""
    form, default = profile.sandbox.limits, Limits()
    return Limits(
        memory_bytes=form.memory or default.memory_bytes,
        disk_bytes=form.disk or default.disk_bytes,
        processes=form.processes or default.processes,
        tmp_bytes=form.tmp or default.tmp_bytes,
        output_bytes=form.output or default.output_bytes,
        cpus=form.cpu,
    )


def bundle_of(run: RunRecord) -> Bundle:
    """The repository of the run, as it was when the task was assigned."""
    return Bundle(Path(run.workspace["bundle"]), run.base_commit, run.workspace["branch"])


def _check_folder(run: RunRecord) -> None:
    """A run that goes on without its folder would lose its files, or leave later ones where nobody else finds them.

    One that ends needs nothing of it.
    """
    bundle = Path(run.workspace["bundle"])
    if not bundle.is_file():
        raise Mistake(
            f"the folder {bundle.parent} of run {run.id} is not complete on this machine",
            fix="Workers on several machines share RINGFENCE_HOME/runs under the same path: mount it, or restore it "
            f"from a backup, then `ringfence runs resume {run.id}`",
        )


def _environment_secret(name: str) -> str | None:
    """The value that a credential's `from: env:NAME` names."""
    return os.environ.get(name.removeprefix("env:"))
