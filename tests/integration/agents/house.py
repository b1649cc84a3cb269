"""A whole house around a run: the real store, gate, ledger and toolbox; a counting sandbox and a scripted model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ringfence_agents.model import Model
from ringfence_agents.ports import Equipment, Limits
from ringfence_agents.runner import Runner
from ringfence_agents.runs import NewRun, RunRecord, TaskId, load, open_run
from ringfence_audit.keys import Signer
from ringfence_audit.store import SqlStore
from ringfence_sandbox.contract import (
    Backend,
    Bundle,
    EgressGatekeeper,
    Exec,
    Layer,
    Sandbox,
    SandboxId,
    SandboxSpec,
)
from ringfence_sandbox.errors import SandboxError, SandboxGone
from ringfence_tools.budget import Unit
from ringfence_tools.builtin.toolset import builtin_toolbox
from ringfence_tools.calls import Effect, RunId
from ringfence_tools.gate import Gate
from ringfence_tools.gate_context import Decider
from ringfence_tools.people import Person
from ringfence_tools.progress import Progress, ProgressEvent
from ringfence_tools.toolbox import Toolbox
from tests.fakes.counting_sandbox import CountingSandbox
from tests.fakes.policy import FakePolicy


class Clock:
    """A clock that a test drives."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_s(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class NamedSandbox(CountingSandbox):
    def __init__(self, id: SandboxId) -> None:
        super().__init__()
        self._id = id

    @property
    def id(self) -> SandboxId:
        return self._id


class CountingBackend(Backend):
    """Sandboxes in memory that outlive the worker, as files do."""

    def __init__(self) -> None:
        self.sandboxes: dict[SandboxId, CountingSandbox] = {}
        self.made: list[CountingSandbox] = []
        self.destroyed: list[SandboxId] = []
        self.refuses: SandboxError | None = None
        self.keeps_patch = False

    @property
    def kind(self) -> str:
        return "counting"

    async def check(self) -> Sequence[Layer]:
        return ()

    async def create(self, spec: SandboxSpec, *, egress: EgressGatekeeper | None = None) -> Sandbox:
        if self.refuses is not None:
            raise self.refuses
        self.sandboxes[spec.id] = NamedSandbox(spec.id)
        self.sandboxes[spec.id].keeps_patch = self.keeps_patch
        self.made.append(self.sandboxes[spec.id])
        return self.sandboxes[spec.id]

    async def attach(self, spec: SandboxSpec, *, egress: EgressGatekeeper | None = None) -> Sandbox:
        if spec.id not in self.sandboxes:
            raise SandboxGone(f"no sandbox {spec.id}")
        return self.sandboxes[spec.id]

    async def destroy(self, sandbox: SandboxId) -> None:
        self.destroyed.append(sandbox)
        self.sandboxes.pop(sandbox, None)

    async def sweep(self, live: frozenset[SandboxId]) -> Sequence[SandboxId]:
        return ()

    async def close(self) -> None:
        return None


class Everybody:
    """A directory in which everybody owns everything."""

    def groups_of(self, name: str, *, team: str) -> frozenset[str]:
        return frozenset({"owner"})


ANA = Person("ana", frozenset({"owner"}))
RUN = RunId("r1")


@dataclass
class House:
    store: SqlStore
    clock: Clock
    folder: Path
    backend: CountingBackend = field(default_factory=CountingBackend)
    policy: Decider = field(default_factory=FakePolicy)
    toolbox: Toolbox = field(default_factory=builtin_toolbox)
    scopes: tuple[str, ...] = ()
    """Budgets that all its runs share."""
    seen: list[ProgressEvent] = field(default_factory=list)

    @classmethod
    def build(
        cls,
        folder: Path,
        *,
        effects: Mapping[str, Effect] | None = None,
        real_clock: Callable[[], datetime] | None = None,
        url: str = "",
    ) -> House:
        clock = Clock()
        signer = Signer.generate("ringfence.example/log")
        store = SqlStore.open(url or f"sqlite:///{folder}/log.db", signer=signer, clock=clock)
        store.create_schema()
        return cls(store, clock, folder, policy=FakePolicy(effects or {}))

    async def open(
        self,
        run: RunId = RUN,
        *,
        setup: tuple[str, ...] = (),
        caps: Mapping[Unit, int] | None = None,
        team: str = "",
        priority: int = 0,
    ) -> RunId:
        new = NewRun(
            run=run,
            task=TaskId(f"t-{run}"),
            text="Fix the failing test",
            repository="https://git.example.org/acme/shop",
            assigned_by="ana",
            profile="default",
            profile_version="1",
            profile_digest="0" * 64,
            profile_document="",
            model="scripted",
            base_commit="0" * 40,
            system_prompt="You are careful.",
            team=team,
            priority=priority,
            setup=setup,
            caps=caps or {},
        )
        return await self.store.write(lambda tx: open_run(tx, new, is_read_only=self.toolbox.is_read_only))

    def runner(
        self, model: Model, *, worker: str = "w1", limits: Limits | None = None, progress: Progress | None = None
    ) -> Runner:
        limits = limits or Limits()

        async def equip(record: RunRecord) -> Equipment:
            return self.equipment(model, limits)

        return Runner(self.store, equip, worker=worker, limits=limits, progress=progress or self.seen.append)

    def equipment(self, model: Model, limits: Limits) -> Equipment:
        return Equipment(
            gate=Gate(self.store, self.policy, self.toolbox, Everybody()),
            model=model,
            toolbox=self.toolbox,
            backend=self.backend,
            spec=lambda _, sandbox: SandboxSpec(sandbox),
            bundle=lambda record: Bundle(self.folder / "bundle", record.base_commit),
            artifacts=self.folder / "artifacts",
            scopes=lambda _: self.scopes,
            limits=limits,
        )

    async def record(self, run: RunId = RUN) -> RunRecord:
        return await self.store.read(lambda connection: load(connection, run))

    async def tick(self) -> None:
        """One turn through the store and the loop: what a test awaits while others work."""
        await self.store.read(lambda connection: connection.exec_driver_sql("SELECT 1").scalar())

    def commands(self) -> list[str]:
        """What really ran, counted by the sandboxes themselves, also by those that are gone."""
        return [
            effect.argv[-1] for sandbox in self.backend.made for effect in sandbox.effects if isinstance(effect, Exec)
        ]
