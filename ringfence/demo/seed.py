"""`ringfence demo seed`: teams, people, runs, cards and entries in an empty state folder, in seconds.

Every row and entry is made by the services that make them in earnest: runs are driven by the runner through the gate
under a real profile, votes are cast, grants given. Only model (a transcript) and sandbox (`paper`) are stand-ins.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ringfence import voting
from ringfence.auth import people
from ringfence.auth.identity import GroupPlace, Membership
from ringfence.budgets import caps_of
from ringfence.demo.paper import PaperBackend
from ringfence.demo.scenes import ACCOUNTS, PUBLISHED, SCENES, TEAMS, Scene
from ringfence.errors import Mistake
from ringfence.local_store import open_store
from ringfence.opening import fresh_id
from ringfence.settings import Settings
from ringfence_agents import control
from ringfence_agents.model import Prices
from ringfence_agents.ports import Equipment
from ringfence_agents.prompt import system_prompt
from ringfence_agents.replay import ReplayModel
from ringfence_agents.runner import Runner
from ringfence_agents.runs import NewRun, RunRecord, TaskId, load, open_run
from ringfence_agents.transcript import AnswerLine, CallLine, HeadLine, Transcript, UsageLine
from ringfence_audit.port import Transaction
from ringfence_audit.query import count
from ringfence_audit.store import SqlStore
from ringfence_sandbox.contract import Bundle, SandboxSpec
from ringfence_tools import escalations, profile_versions
from ringfence_tools.builtin.toolset import builtin_toolbox
from ringfence_tools.calls import GrantWidth, RunId
from ringfence_tools.escalations import Escalation
from ringfence_tools.gate import Gate
from ringfence_tools.policy import Policy
from ringfence_tools.profile import Profile, parse_profile
from ringfence_tools.progress import ignore
from ringfence_tools.toolbox import Toolbox

BY = "system:demo"
PRICES = Prices(input=3_000_000, output=15_000_000, cached_input=300_000)


@dataclass
class StageClock:
    """Real time, moved back to when a scene is set: so that a fresh data set has a past."""

    behind: timedelta = field(default_factory=timedelta)

    def __call__(self) -> datetime:
        return datetime.now(UTC) - self.behind


@dataclass(frozen=True, slots=True)
class Demo:
    store: SqlStore
    folder: Path
    clock: StageClock
    toolbox: Toolbox
    profile: Profile
    document: str
    policy: Policy


async def seed(settings: Settings) -> None:
    """Fill an empty state folder. Raises `Mistake` where it holds a log already."""
    clock = StageClock()
    with open_store(settings, clock=clock) as store:
        if store.read_now(count):
            raise Mistake(
                f"{settings.home} holds a log already", fix="Point RINGFENCE_HOME at an empty folder for the demo data"
            )
        await fill(store, settings.home / "demo", clock)
        await store.checkpoint()


async def fill(store: SqlStore, folder: Path, clock: StageClock) -> None:
    """The data set in an open, empty store whose clock is `clock`."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    clock.behind = timedelta(days=4)
    await store.write(_people)
    document = await _publish(store)
    profile = parse_profile(document.encode(), "python-service")
    demo = Demo(store, folder, clock, builtin_toolbox(), profile, document, Policy.compile(profile))
    for scene in SCENES:
        clock.behind = timedelta(seconds=scene.age_s)
        await _play(demo, scene)
    clock.behind = timedelta()


async def _publish(store: SqlStore) -> str:
    """Every version of the data set's profile; returns what runs of the newest are pinned to."""
    documents = [await _publish_one(store, text, reason) for text, reason in PUBLISHED]
    return documents[-1]


async def _publish_one(store: SqlStore, text: str, reason: str) -> str:
    found = await store.read(lambda connection: profile_versions.draft(connection, text.encode()))
    await store.write(lambda tx: profile_versions.publish(tx, found, by="person:omar", reason=reason))
    return found.document


def _people(tx: Transaction) -> None:
    for name, title in TEAMS:
        people.create_team(tx, name, by=BY, title=title)
    for account in ACCOUNTS:
        people.create_person(tx, account.name, by=BY, display=account.display, email=f"{account.name}@example.org")
        roles = [Membership(team, role) for team, role in account.places]
        groups = [GroupPlace(team, group) for team, group in account.groups]
        people.set_places(tx, account.name, by=BY, roles=roles, groups=groups)


class _Nobody:
    """The data set knows no user of the machine."""

    def groups_of(self, name: str, *, team: str) -> frozenset[str]:
        return frozenset()


async def _play(demo: Demo, scene: Scene) -> None:
    run = await demo.store.write(lambda tx: open_run(tx, _new_run(demo, scene), is_read_only=demo.toolbox.is_read_only))
    backend = PaperBackend(scene.outputs, scene.patch)
    model = ReplayModel(_transcript(scene))
    model.prices = PRICES

    async def equip(record: RunRecord) -> Equipment:
        return Equipment(
            gate=Gate(demo.store, demo.policy, demo.toolbox, people.AccountDirectory(demo.store, _Nobody())),
            model=model,
            toolbox=demo.toolbox,
            backend=backend,
            spec=lambda _, sandbox: SandboxSpec(sandbox),
            bundle=lambda one: Bundle(demo.folder / "none", one.base_commit),
            artifacts=demo.folder / "runs",
        )

    runner = Runner(demo.store, equip, worker="demo", progress=ignore)
    if scene.then == "pause":
        await demo.store.write(lambda tx: control.pause(tx, run, by=f"person:{scene.person}", reason="until Monday"))
        return
    await runner.drive(run)
    for name, verdict in scene.votes:
        await _vote(demo, run, name, verdict)
        demo.clock.behind -= timedelta(seconds=45)
        await runner.drive(run)


async def _vote(demo: Demo, run: RunId, name: str, verdict: str) -> None:
    def cast(tx: Transaction) -> Escalation:
        (found,) = [one for one in escalations.of_run(tx.connection, run) if one.state.value == "open"]
        identity = people.identity_of(tx.connection, name)
        if identity is None:
            raise Mistake(f"the data set has no person {name}")
        person = identity.person_in(load(tx.connection, run).team)
        if verdict == "deny":
            return voting.deny(tx, found, person, guidance="Use the recorded answers in tests/data.")
        read = frozenset(range(1, len(voting.card_of(found).findings) + 1))
        width: GrantWidth = "task" if verdict == "task" else "once"
        return voting.approve(tx, found, person, digest=found.digest, width=width, read=read, toolbox=demo.toolbox)

    await demo.store.write(cast)


def _new_run(demo: Demo, scene: Scene) -> NewRun:
    run = RunId(fresh_id("r"))
    path = demo.folder / f"{run}.jsonl"
    path.write_text(_transcript(scene).to_jsonl(), encoding="utf-8")
    return NewRun(
        run=run,
        task=TaskId(fresh_id("t")),
        text=scene.title,
        repository=scene.repository,
        assigned_by=scene.person,
        profile=demo.profile.metadata.name,
        profile_version=str(demo.profile.metadata.version),
        profile_digest=hashlib.sha256(demo.document.encode()).hexdigest(),
        profile_document=demo.document,
        model=f"replay:{path}",
        base_commit="4c1e9a" + "0" * 34,
        system_prompt=system_prompt(demo.profile),
        workspace={"bundle": str(demo.folder / "none"), "branch": "main"},
        team=scene.team,
        caps=caps_of(demo.profile.budget.run),
    )


def _transcript(scene: Scene) -> Transcript:
    answers = tuple(
        AnswerLine(
            content=turn.says,
            tool_calls=tuple(CallLine(name=name, arguments=dict(arguments)) for name, arguments in turn.calls),
            usage=UsageLine(input=1800 + 900 * number, output=140 + 30 * number),
        )
        for number, turn in enumerate(scene.turns)
    )
    head = HeadLine(kind="transcript", version=1, model="coder-large (recorded)", note="Part of the demo data set.")
    return Transcript(head=head, answers=answers)
