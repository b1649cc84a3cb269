"""The lives of workers and voters: each a process of its own that goes on until it is ended. Real gate, log, sandbox.

The sandbox has one thing that none has otherwise: a file of the host that its commands may append to, so that what they
really did is counted where no sandbox, worker or log can lose or repeat it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from ringfence.local_store import open_store
from ringfence.settings import Settings
from ringfence.wiring import bundle_of, spec_of
from ringfence_agents import control
from ringfence_agents.model import Answer, ModelRequest, OnDelta, Prices
from ringfence_agents.ports import Equipment, Limits
from ringfence_agents.runner import Runner
from ringfence_agents.runs import RunRecord
from ringfence_agents.worker import Pace, Worker
from ringfence_audit.port import Store, Transaction
from ringfence_sandbox.contract import Limits as SandboxLimits
from ringfence_sandbox.contract import Mount
from ringfence_sandbox.local import backend as local_backend
from ringfence_sandbox.local import bwrap
from ringfence_sandbox.local.backend import Ground, LocalBackend
from ringfence_sandbox.local.bwrap import Fence, Places
from ringfence_sandbox.local.system_tree import SystemTree
from ringfence_tools import escalations, review
from ringfence_tools.builtin.toolset import builtin_toolbox
from ringfence_tools.errors import EscalationClosed
from ringfence_tools.gate import Gate
from ringfence_tools.policy import Policy
from ringfence_tools.profile import parse_profile
from ringfence_tools.progress import ignore
from tests.chaos.points import FatalStore, Fate, make_actions_fatal
from tests.fakes.model import call, finishes, says
from tests.integration.agents.house import ANA, Everybody

OUTSIDE = "/outside"
LINES, ASKED = "lines", "asked"
LIMITS = Limits(
    lease_s=3, watch_s=0.2, stop_grace_s=0.2, sandbox_losses=1_000_000, retry_base_s=0, retries=1_000_000, turns=100
)
PROFILE = """\
apiVersion: ringfence.dev/v1
kind: Profile
metadata: {name: chaos, owner: owner, version: 1}
extends: default@1
rules:
  - {id: careful, ask: [shell], commands: ["careful *"], who: {any: [owner]}, expires: 1h, widest_grant: once}
"""


@dataclass(frozen=True)
class World:
    """Where everything lies. `turns` and `slow_s`: how long a run is, and how long each of its calls takes."""

    home: Path
    outside: Path
    turns: int = 6
    slow_s: float = 0.04

    @property
    def settings(self) -> Settings:
        return Settings(home=self.home, config=self.home / "config")


class Script:
    """Asks for one or two appends a turn, every third of which a person has to allow; notes each question it was asked.

    The note is a line of its own file, so that a question that was paid for twice is seen.
    """

    name = "scripted"
    window_tokens = 1_000_000
    max_output_tokens = 1_000
    prices = Prices()
    is_replay = False

    def __init__(self, world: World) -> None:
        self._world = world

    async def answer(self, request: ModelRequest, on_delta: OnDelta) -> Answer:
        append(self._world.outside / ASKED, f"{request.run} {request.turn}")
        if request.turn > self._world.turns:
            return finishes()
        commands = [f"echo {request.run}/{request.turn}/{n} >> {OUTSIDE}/{LINES}" for n in range(1 + request.turn % 2)]
        if request.turn % 3 == 0:
            commands[0] = f"careful() {{ :; }}; careful x; {commands[0]}"
        ends = f"; sleep {self._world.slow_s}"
        return says("", *(call("shell", {"command": text + ends}, id=f"c{n}") for n, text in enumerate(commands)))


def append(path: Path, line: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(file, f"{line}\n".encode())
    finally:
        os.close(file)


class OpenBackend(LocalBackend):
    """The local backend, but that each sandbox may write into one folder of the host."""

    def __init__(self, root: Path, outside: Path) -> None:
        super().__init__(root)
        self._outside = outside

    async def _prepare(self) -> Ground:
        ground = await super()._prepare()
        if ground.reach is not None:
            ground.reach.reachable(self._outside)
        _open(self._outside if ground.reach is None else ground.reach.place(self._outside))
        return ground


def _open(place: Path) -> None:
    arguments = bwrap.arguments

    def opened(
        tree: SystemTree,
        mounts: Sequence[Mount],
        places: Places,
        limits: SandboxLimits,
        *,
        fence: Fence,
        proc_names: frozenset[str],
    ) -> list[str]:
        words = arguments(tree, mounts, places, limits, fence=fence, proc_names=proc_names)
        at = words.index("--remount-ro")
        return [*words[:at], "--bind", str(place), OUTSIDE, *words[at:]]

    bwrap.arguments = opened
    local_backend.WRITABLE = (*local_backend.WRITABLE, OUTSIDE)  # type: ignore[assignment]  # one more than it had


def worker_life(world: World, name: str, fate: Fate) -> None:
    """Drive whatever is there until ended; SIGTERM drains."""
    make_actions_fatal(fate)
    with open_store(world.settings) as store:
        asyncio.run(_work(world, name, FatalStore(store, fate)))


async def _work(world: World, name: str, store: Store) -> None:
    backend = OpenBackend(world.settings.sandboxes, world.outside)
    toolbox = builtin_toolbox()
    model = Script(world)

    async def equip(record: RunRecord) -> Equipment:
        profile = parse_profile(record.profile_document.encode(), record.profile)
        return Equipment(
            gate=Gate(store, Policy.compile(profile), toolbox, Everybody()),
            model=model,
            toolbox=toolbox,
            backend=backend,
            spec=lambda run, sandbox: spec_of(run, profile, sandbox),
            bundle=bundle_of,
            artifacts=world.settings.runs,
            limits=LIMITS,
        )

    runner = Runner(store, equip, worker=name, limits=LIMITS, progress=ignore)
    worker = Worker(store, runner, pace=Pace(look_s=0.1, sweep_s=0.5, drain_s=10))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.drain)
    try:
        await worker.run()
    finally:
        await backend.close()


def voter_life(world: World, fate: Fate) -> None:
    """Approve whatever waits, until ended."""
    with open_store(world.settings) as store:
        asyncio.run(_vote(FatalStore(store, fate)))


async def _vote(store: FatalStore) -> None:
    def waiting(connection: Connection) -> tuple[escalations.Escalation, ...]:
        return escalations.open_ones(connection, 0)

    while True:
        for found in await store.read(waiting):

            def vote(tx: Transaction, found: escalations.Escalation = found) -> None:
                review.approve(tx, found.id, ANA, digest=found.digest)
                control.wake(tx, found.key.run)

            try:
                await store.write(vote)
            except EscalationClosed:
                continue  # settled since it was read
        await asyncio.sleep(0.05)
