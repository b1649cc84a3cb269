"""Small real logs that these tests are about."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from ringfence_audit import export
from ringfence_audit.events import Event, JsonValue, Kind
from ringfence_audit.keys import Signer
from ringfence_audit.port import Transaction
from ringfence_audit.query import Filter
from ringfence_audit.store import SqlStore

ORIGIN = "test.example/log"


def call_events(run: str, number: int, *, effect: str = "allow", text: str = "ok") -> tuple[Event, ...]:
    """What one tool call leaves: intent and outcome, or the decision that forbids it and its outcome."""
    call, agent, person = f"{run}/{number}/0", f"agent:{run}", "person:ana"
    digest = f"{number:064x}"
    accesses: list[JsonValue] = [{"family": "network", "resource": f"h{number % 3}.example.org:443", "attributes": {}}]
    decision: JsonValue = {"effect": effect, "rules": [f"rule-{number % 4}"], "policy_version": "1"}
    data: dict[str, JsonValue] = {
        "tool": "shell",
        "arguments": {"command": f"pytest case{number}"},
        "accesses": accesses,
        "digest": digest,
        "decision": decision,
    }
    kind = Kind.INTENT if effect == "allow" else Kind.DECISION
    status = "ok" if effect == "allow" else "forbidden"
    outcome: dict[str, JsonValue] = {"tool": "shell", "digest": digest, "status": status, "text": text}
    return (
        Event(kind, agent, data, run, call, person),
        Event(Kind.OUTCOME, agent, outcome, run, call, person),
    )


def run_events(run: str, calls: int, *, task: str = "t1") -> list[Event]:
    """A whole run: opened, calls of which every fifth is forbidden, closed."""
    agent, person = f"agent:{run}", "person:ana"
    events = [Event(Kind.RUN_OPENED, person, {"task": task, "text": "mend the tests"}, run, "", person)]
    for number in range(calls):
        events += call_events(run, number, effect="forbid" if number % 5 == 4 else "allow")
    return [*events, Event(Kind.RUN_CLOSED, agent, {"status": "finished"}, run, "", person)]


def write(store: SqlStore, events: Sequence[Event]) -> None:
    def work(tx: Transaction) -> None:
        for event in events:
            tx.record(event)

    asyncio.run(store.write(work))


def seal(store: SqlStore) -> str:
    note = asyncio.run(store.checkpoint())
    assert note is not None
    return note


def export_lines(store: SqlStore, wanted: Filter, *, since: Sequence[str] = ()) -> list[bytes]:
    """As `ringfence audit export` does it."""
    settled = store.read_now(lambda connection: export.answer(connection, wanted))
    write(store, [export.statement(settled, "person:eve")])
    note = seal(store)
    return store.read_now(
        lambda connection: list(export.lines(connection, settled, note, blobs=store.blobs, since=since))
    )


def open_log(path: Path, signer: Signer | None = None) -> SqlStore:
    store = SqlStore.open(f"sqlite:///{path}", signer=signer or Signer.generate(ORIGIN))
    store.create_schema()
    return store


def copy_of(path: Path, copy: Path) -> Path:
    """A consistent copy at rest."""
    with closing(sqlite3.connect(path)) as live, closing(sqlite3.connect(copy)) as target:
        live.backup(target)
    return copy
