"""Crash after crash, with writers at work: no acknowledged entry is lost, none is doubled, and the log verifies.

    python -m tests.integration.database.crash_cycles 1000 [sqlite|postgresql] [seed]

Each cycle forks a process in which eight tasks append rows and entries and acknowledge them through a pipe. At a random
instant the connections are cut or the server is killed and started again, and in the end the process itself is killed.
A task that is told *nothing was done* tries the same id again, so that a wrong answer shows up as a double.
"""

from __future__ import annotations

import asyncio
import os
import random
import select
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import orjson
import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Column, Connection, MetaData, String, Table, insert
from sqlalchemy import select as select_rows

from ringfence_audit import tables
from ringfence_audit.errors import CommitUnknown, LogUnavailable
from ringfence_audit.events import Event, Kind
from ringfence_audit.keys import Signer
from ringfence_audit.notes import VerifierKey
from ringfence_audit.port import Transaction
from ringfence_audit.store import SqlStore
from ringfence_audit.verify import verify
from tests.fixtures_postgres import PostgresServer, find_binaries, make_database

SIGNER = Signer("test.example/log", Ed25519PrivateKey.from_private_bytes(sha256(b"crash cycles").digest()))
KEY = VerifierKey.of_log(SIGNER.origin, SIGNER.public_key)
WRITERS = 8
LONGEST_CYCLE_S = 0.3
VERIFY_EVERY = 25
FIRST_WORD_S = 60

ROWS = Table("crash_rows", MetaData(), Column("id", String(60), nullable=False))


@dataclass(slots=True)
class Tally:
    """What the cycles have seen so far."""

    acknowledged: int = 0
    unknown: int = 0
    told_nothing: int = 0
    server_kills: int = 0
    cuts: int = 0


def append(tx: Transaction, name: str) -> None:
    tx.connection.execute(insert(ROWS), {"id": name})
    tx.record(Event(Kind.INTENT, "agent:crash", {"id": name}, run=f"r{name[-1]}"))


async def _write(store: SqlStore, cycle: int, writer: int, pipe: int) -> None:
    number = 0
    while True:
        name = f"{cycle}-{number}-{writer}"
        try:
            await store.write(lambda tx, name=name: append(tx, name))  # type: ignore[misc]  # bound per turn
        except CommitUnknown:
            os.write(pipe, f"? {name}\n".encode())
        except LogUnavailable:
            os.write(pipe, b"-\n")
            await asyncio.sleep(0.01)
            continue
        else:
            os.write(pipe, f"+ {name}\n".encode())
        number += 1


def _child(url: str, cycle: int, pipe: int) -> None:
    async def work() -> None:
        with SqlStore.open(url, signer=SIGNER) as store:
            async with asyncio.TaskGroup() as group:
                for writer in range(WRITERS):
                    group.create_task(_write(store, cycle, writer, pipe))

    asyncio.run(work())


def cycle(number: int, url: str, server: PostgresServer | None, chance: random.Random, tally: Tally) -> list[str]:
    """One crash; returns what was acknowledged in it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            _child(url, number, writing)
        except LogUnavailable:
            os._exit(3)  # the server was down at the very start: nothing was acknowledged
        finally:
            os._exit(4)
    os.close(writing)
    if number % 4:  # else it is struck while it opens the database, or at its first entries
        select.select([reading], (), (), FIRST_WORD_S)
    time.sleep(chance.uniform(0, LONGEST_CYCLE_S))
    if server is not None:
        fault = chance.choice(["none", "cut", "server"])
        if fault == "cut":
            tally.cuts += 1
            _cut(url)
        elif fault == "server":
            tally.server_kills += 1
            server.kill()
            server.start()
        time.sleep(chance.uniform(0, LONGEST_CYCLE_S))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reading, "r") as lines:
        told = lines.read().splitlines()
    tally.unknown += sum(line.startswith("?") for line in told)
    tally.told_nothing += told.count("-")
    acknowledged = [line[2:] for line in told if line.startswith("+ ")]
    tally.acknowledged += len(acknowledged)
    return acknowledged


def _cut(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def check(store: SqlStore, acknowledged: set[str], *, is_whole: bool) -> None:
    """Raises `AssertionError` naming what was lost or doubled."""
    rows, entries = store.read_now(_kept)
    doubled = [name for name, count in (Counter(rows) + Counter(entries)).items() if count > 2]
    if doubled or len(set(entries)) != len(entries):
        raise AssertionError(f"doubled: {doubled[:5] or [n for n, c in Counter(entries).items() if c > 1][:5]}")
    if set(rows) != set(entries):
        raise AssertionError(f"rows and entries differ: {sorted(set(rows) ^ set(entries))[:5]}")
    lost = acknowledged - set(entries)
    if lost:
        raise AssertionError(f"acknowledged and lost: {sorted(lost)[:5]}")
    if is_whole:
        verdict = store.read_now(lambda connection: verify(connection, KEY))
        if not verdict.is_intact:
            raise AssertionError(verdict.text)


def _kept(connection: Connection) -> tuple[list[str], list[str]]:
    bodies = connection.execute(select_rows(tables.entries.c.entry)).scalars()
    return list(connection.execute(select_rows(ROWS.c.id)).scalars()), [
        orjson.loads(body)["event"]["data"]["id"] for body in bodies
    ]


def run(cycles: int, url: str, server: PostgresServer | None, *, seed: int) -> Tally:
    """`cycles` crashes on this database. Raises `AssertionError` at the first thing that is wrong."""
    chance = random.Random(seed)
    tally = Tally()
    with SqlStore.open(url, signer=SIGNER) as store:
        store.create_schema()
        store.alter(ROWS.metadata.create_all)
    acknowledged: set[str] = set()
    for number in range(cycles):
        acknowledged.update(cycle(number, url, server, chance, tally))
        is_last = number == cycles - 1
        with SqlStore.open(url, signer=SIGNER) as store:
            check(store, acknowledged, is_whole=is_last or number % VERIFY_EVERY == 0)
    return tally


def main(cycles: int, kind: str, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if kind == "sqlite":
            print(run(cycles, f"sqlite:///{Path(folder)}/log.db", None, seed=seed))
            return
        server = PostgresServer.make(find_binaries())
        try:
            server.start()
            url = make_database(server.url).render_as_string(hide_password=False)
            print(run(cycles, url, server, seed=seed))
        finally:
            server.stop()


if __name__ == "__main__":
    words = dict(enumerate(sys.argv[1:]))
    main(int(words.get(0, "1000")), words.get(1, "postgresql"), int(words.get(2, "1")))
