"""The lives of workers and APIs: each a process of its own that goes on until it is ended. Real gate, log, sandbox.

The sandbox has one thing that none has otherwise: a file of the host that its commands may append to, so that what they
really did is counted where no sandbox, worker or log can lose or repeat it.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from pydantic import SecretStr

from ringfence.api.app import create_app
from ringfence.api.origin import Origin
from ringfence.api.serving import make_house
from ringfence.local_store import open_store
from ringfence.settings import Settings
from ringfence.wiring import bundle_of, spec_of
from ringfence_agents.model import Answer, ModelRequest, OnDelta, Prices
from ringfence_agents.ports import Equipment, Limits
from ringfence_agents.runner import Runner
from ringfence_agents.runs import RunRecord
from ringfence_agents.worker import News, Pace, Worker
from ringfence_audit.errors import LogUnavailable
from ringfence_audit.port import Store
from ringfence_audit.store import SqlStore
from ringfence_sandbox.contract import Limits as SandboxLimits
from ringfence_sandbox.contract import Mount
from ringfence_sandbox.local import backend as local_backend
from ringfence_sandbox.local import bwrap
from ringfence_sandbox.local.backend import Ground, LocalBackend
from ringfence_sandbox.local.bwrap import Fence, Places
from ringfence_sandbox.local.system_tree import SystemTree
from ringfence_tools.builtin.toolset import builtin_toolbox
from ringfence_tools.gate import Gate
from ringfence_tools.policy import Policy
from ringfence_tools.profile import parse_profile
from ringfence_tools.progress import ignore
from tests.chaos.points import FatalStore, Fate, append, make_actions_fatal
from tests.fakes.model import call, finishes, says
from tests.integration.agents.house import Everybody

OUTSIDE = "/outside"
LINES, ASKED, ENDED = "lines", "asked", "ended"
"""Files in the world's outside: what commands wrote, what models were asked, what was ended besides whole lives."""
ORIGIN = Origin("http", "127.0.0.1", 8600)
OK, CREATED, CONFLICT, UNAVAILABLE = 200, 201, 409, 503
OPEN_WITHIN_S = 60.0
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
    """Where everything lies. `turns` and `slow_s`: how long a run is, and how long each of its calls takes.

    Without `database_url` the state is a file. `token` is that of the person who votes.
    """

    home: Path
    outside: Path
    turns: int = 6
    slow_s: float = 0.04
    database_url: str = ""
    token: str = ""

    @property
    def settings(self) -> Settings:
        url = SecretStr(self.database_url) if self.database_url else None
        return Settings(home=self.home, config=self.home / "config", database_url=url)


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
    with opened(world) as store:
        asyncio.run(_work(world, name, FatalStore(store, fate), store.wakeups))


async def _work(world: World, name: str, store: Store, news: News) -> None:
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
    worker = Worker(store, runner, pace=Pace(look_s=0.1, sweep_s=0.5, drain_s=10), news=news)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.drain)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _tell_tasks)
    try:
        await worker.run()
    finally:
        await backend.close()


def _tell_tasks() -> None:
    """Where everything stands that this worker has under way: asked of one that does not come to an end."""
    for task in asyncio.all_tasks():
        task.print_stack()


def api_life(world: World, fate: Fate) -> None:
    """Serve the API, and approve by it whatever waits, until ended.

    It is asked within its process: whoever votes gets no answer from one that is killed, and votes again with the
    same key.
    """
    with opened(world) as store:
        store.write = FatalStore(store, fate).write  # type: ignore[method-assign]  # this process exists to be killed
        asyncio.run(_serve(world, store))


async def _serve(world: World, store: SqlStore) -> None:
    transport = httpx.ASGITransport(create_app(make_house(world.settings, store, ORIGIN)))
    headers = {"authorization": f"Bearer {world.token}"}
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN.text, headers=headers) as client:
        while True:
            inbox = await client.get("/api/v1/inbox?limit=200")
            for card in inbox.json()["items"] if inbox.status_code == OK else ():
                vote = {
                    "verdict": "approve",
                    "digest": card["digest"],
                    "findings": [finding["number"] for finding in card["findings"]],
                }
                key = {"idempotency-key": f"approve-{card['id']}"}
                answer = await client.post(f"/api/v1/escalations/{card['id']}/votes", json=vote, headers=key)
                # Settled since it was read, or the database is away: it is looked at again. Anything else is a fault.
                assert answer.status_code in (CREATED, CONFLICT, UNAVAILABLE), answer.text
            await asyncio.sleep(0.05)


@contextmanager
def opened(world: World) -> Iterator[SqlStore]:
    """The store, waited for where its server is just being started again."""
    with ExitStack() as stack:
        end = time.monotonic() + OPEN_WITHIN_S
        while True:
            try:
                store = stack.enter_context(open_store(world.settings))
                break
            except LogUnavailable:
                if time.monotonic() > end:
                    raise
        yield store
