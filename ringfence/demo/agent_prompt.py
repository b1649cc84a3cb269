"""*Now you be the agent*: what the viewer types goes through the same gate, policy, sandbox and log."""

from __future__ import annotations

import json

from ringfence.asking import ask_line
from ringfence.deciding import decide_here
from ringfence.demo.stage import Stage
from ringfence.live import LiveView
from ringfence.opening import Order, open_order
from ringfence.session import Session
from ringfence.wiring import Workshop, open_workshop, spec_of
from ringfence_agents.runs import load
from ringfence_audit.port import Transaction
from ringfence_sandbox.contract import Sandbox, SandboxId
from ringfence_tools import ledger
from ringfence_tools.calls import CallKey, RunId
from ringfence_tools.egress import RunEgress
from ringfence_tools.escalations import get
from ringfence_tools.gate import Gate
from ringfence_tools.gate_context import RunContext, TaskFacts, Waiting
from ringfence_tools.ledger import Proposal
from ringfence_tools.policy import Policy
from ringfence_tools.profile import parse_profile

HELP = """\
Type a command, as the agent's shell would run it: try `cat /etc/shadow`, `curl https://example.org`, `ps aux`.
Or a tool call: `read_file {"path": "README.md"}`, `read_file {"path": "/home/deploy/.ssh/id_ed25519"}`.
Leave with `exit`."""


async def be_the_agent(session: Session, stage: Stage, sandbox: str | None = None) -> None:
    """Read lines until `exit`; each is one call of a run of its own."""
    output = session.output
    output.block(HELP, "dim")
    async with open_workshop(session.settings, session.store, session.directory) as workshop:
        order = Order(
            "You are the agent",
            str(stage.repository),
            str(stage.profile),
            model=f"replay:{stage.transcript}",
            sandbox=sandbox,
        )
        run = await open_order(workshop, order, session.person)
        seat = _Seat(session, workshop, run)
        try:
            turn = 0
            while (line := await ask_line("agent> ")) is not None and line.strip() not in ("exit", "quit"):
                if line.strip():
                    turn += 1
                    await seat.call(turn, line.strip())
        finally:
            await seat.leave()


class _Seat:
    """The viewer's place at the gate: a run without a model."""

    def __init__(self, session: Session, workshop: Workshop, run: RunId) -> None:
        self._session = session
        self._workshop = workshop
        self._run = run
        self._sandbox: Sandbox | None = None

    async def call(self, turn: int, line: str) -> None:
        """Put one line through the gate and show what became of it."""
        name, _, rest = line.partition(" ")
        toolbox = self._workshop.toolbox
        is_tool = toolbox.get(name) is not None and rest.strip().startswith("{")
        tool, arguments = (name, rest) if is_tool else ("shell", json.dumps({"command": line, "timeout_s": 20}))
        proposal = Proposal("viewer", tool, arguments)

        def propose(tx: Transaction) -> CallKey:
            return ledger.propose(tx, self._run, turn, [proposal], is_read_only=toolbox.is_read_only)[0].key

        key = await self._session.store.write(propose)
        record = await self._session.store.read(lambda connection: load(connection, self._run))
        profile = parse_profile(record.profile_document.encode(), record.profile)
        gate = Gate(self._session.store, Policy.compile(profile), toolbox, self._session.directory)
        context = RunContext(
            run=self._run,
            agent=record.agent,
            on_behalf_of=self._session.person.name,
            fence=0,
            guard=lambda _: None,
            sandbox=self._live,
            progress=LiveView(self._session.output),
            task=TaskFacts("You are the agent", record.repository, record.base_commit, profile.title),
        )
        while isinstance(step := await gate.step(key, context), Waiting):
            waiting = step.escalation
            found = await self._session.store.read(lambda connection: get(connection, waiting))  # noqa: B023
            after = await decide_here(self._session, found)
            if after.state.value == "open":
                self._session.output.line(("left waiting", "wait"))
                return

    async def _live(self) -> Sandbox:
        if self._sandbox is None:
            record = await self._session.store.read(lambda connection: load(connection, self._run))
            profile = parse_profile(record.profile_document.encode(), record.profile)
            policy = Policy.compile(profile)
            backend = await self._workshop.backend(profile)
            egress = RunEgress(
                self._session.store, policy, profile.network, self._run, self._session.person.name, lambda _: None
            )
            sandbox = await backend.create(spec_of(record, profile, SandboxId(f"{self._run}-1")), egress=egress)
            from ringfence.wiring import bundle_of

            await sandbox.load(bundle_of(record))
            self._sandbox = sandbox
        return self._sandbox

    async def leave(self) -> None:
        if self._sandbox is not None:
            record = await self._session.store.read(lambda connection: load(connection, self._run))
            profile = parse_profile(record.profile_document.encode(), record.profile)
            await (await self._workshop.backend(profile)).destroy(self._sandbox.id)
