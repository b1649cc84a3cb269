"""Whatever dies or fails: no acknowledged entry is lost, none is doubled, and the log verifies after each.

`RINGFENCE_CRASHES=1000` runs that many; the suite runs a few.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import orjson
import pytest
from sqlalchemy import Connection

from ringfence_audit.blobs import FileBlobs
from ringfence_audit.errors import LogUnavailable
from ringfence_audit.events import Event, Kind
from ringfence_audit.keys import Signer
from ringfence_audit.notes import VerifierKey
from ringfence_audit.sqlite import SqliteDatabase, SqliteSession
from ringfence_audit.store import SqlStore
from ringfence_audit.verify import verify_file

ORIGIN = "crash.example/log"
CRASHES = int(os.environ.get("RINGFENCE_CRASHES", "3"))
ROOT = Path(__file__).resolve().parents[3]


def names_in(path: Path) -> Counter[str]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        rows = database.execute("SELECT entry FROM audit_entries").fetchall()
    return Counter(orjson.loads(raw)["event"]["data"]["name"] for (raw,) in rows)


def key_of(folder: Path) -> VerifierKey:
    return VerifierKey.of_log(ORIGIN, Signer.load(folder / "audit.key", ORIGIN).public_key)


def test_killed_at_any_instant_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    chance = random.Random(11)
    acknowledged: set[str] = set()
    for life in range(CRASHES):
        command = [sys.executable, "-m", "tests.integration.audit.crasher", str(tmp_path), str(life)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        told: list[str] = []
        lines = chance.randrange(0, 120)
        while len(told) < lines:
            told.append(process.stdout.readline().strip())
        time.sleep(chance.random() * 0.002)
        process.kill()
        rest = process.stdout.read()
        process.wait()
        # A last line may have been cut off in the pipe: then it was not told.
        acknowledged.update([*told, *rest.rpartition("\n")[0].split()])
        found = names_in(tmp_path / "log.db")
        assert set(found.values()) <= {1}, "an entry is doubled"
        assert acknowledged <= set(found), "an acknowledged entry is lost"
        verdict = verify_file(tmp_path / "log.db", key_of(tmp_path))
        assert verdict.is_good, (life, verdict.text)
    assert len(acknowledged) > CRASHES


class Faults:
    """Fails the next call of one kind, before or after it took effect."""

    def __init__(self) -> None:
        self.kind = ""
        self.is_after = False

    def hit(self, kind: str, *, after: bool) -> None:
        if self.kind == kind and self.is_after == after:
            self.kind = ""
            raise sqlite3.OperationalError("disk I/O error")


class FaultySession(SqliteSession):
    faults: Faults

    def commit(self) -> None:
        self.faults.hit("commit", after=False)
        super().commit()
        self.faults.hit("commit", after=True)


class FaultyDatabase(SqliteDatabase):
    def __init__(self, path: Path, faults: Faults) -> None:
        super().__init__(path)
        self._faults = faults
        self.pages = 0
        """How large the database may become; 0 for no limit."""

    def session(self) -> SqliteSession:
        self._faults.hit("begin", after=False)
        connection = self._writers.connect()
        if self.pages:
            connection.exec_driver_sql(f"PRAGMA max_page_count = {self.pages}")
        session = FaultySession(connection)
        session.faults = self._faults
        return session


class FaultyBlobs(FileBlobs):
    def __init__(self, folder: Path, faults: Faults) -> None:
        super().__init__(folder)
        self._faults = faults

    def put(self, bodies: Mapping[str, bytes], connection: Connection) -> None:
        if self._faults.kind == "disk full":
            self._faults.kind = ""
            raise OSError(errno.ENOSPC, "No space left on device")
        super().put(bodies, connection)
        self._faults.hit("blob", after=True)


@pytest.mark.parametrize("seed", range(3))
def test_failing_writes_lose_and_double_nothing(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    faults = Faults()
    database = FaultyDatabase(tmp_path / "log.db", faults)
    blobs = FaultyBlobs(tmp_path / "log.db-blobs", faults)
    signer = Signer.load_or_create(tmp_path / "audit.key", ORIGIN)
    outcomes: dict[str, str] = {}

    async def run(store: SqlStore) -> None:
        for step in range(60):
            faults.kind = chance.choice(("", "", "commit", "begin", "disk full", "blob"))
            faults.is_after = chance.random() < 0.5
            await asyncio.gather(*(attempt(store, f"{step}/{n}") for n in range(5)))
            faults.kind = ""

    async def attempt(store: SqlStore, name: str) -> None:
        text = "large " * 900 + name if name.endswith("/3") else name
        event = Event(Kind.GAP, "system:crash", {"name": name, "text": text}, "r")
        try:
            await store.write(lambda tx: tx.record(event))
        except LogUnavailable as error:
            outcomes[name] = type(error).__name__
        else:
            outcomes[name] = "ok"

    with SqlStore(database, signer=signer, blobs=blobs) as store:
        store.create_schema()
        asyncio.run(run(store))
    found = names_in(tmp_path / "log.db")
    assert set(found.values()) <= {1}
    for name, outcome in outcomes.items():
        if outcome != "CommitUnknown":
            assert (name in found) == (outcome == "ok"), (name, outcome)
    assert {"ok", "LogUnavailable"} <= set(outcomes.values())
    verdict = verify_file(tmp_path / "log.db", key_of(tmp_path))
    assert (verdict.is_good, verdict.absent_bodies) == (True, 0), verdict.text


def test_a_full_disk_stops_writing_and_room_lets_it_go_on(tmp_path: Path) -> None:
    database = FaultyDatabase(tmp_path / "log.db", Faults())
    signer = Signer.load_or_create(tmp_path / "audit.key", ORIGIN)
    written: set[str] = set()

    async def run(store: SqlStore) -> int:
        refused = 0
        for number in range(400):
            event = Event(Kind.GAP, "system:crash", {"name": f"n{number}", "text": "x" * 3_000}, "r")
            try:
                await store.write(lambda tx, event=event: tx.record(event))  # type: ignore[misc]  # bound per turn
            except LogUnavailable:
                refused += 1
                if refused == 5:
                    database.pages = 0  # somebody made room
            else:
                written.add(f"n{number}")
        return refused

    with SqlStore(database, signer=signer, blobs=FileBlobs(tmp_path / "log.db-blobs")) as store:
        store.create_schema()
        database.pages = 75
        assert asyncio.run(run(store)) == 5
    assert set(names_in(tmp_path / "log.db")) == written
    assert len(written) == 395
    assert verify_file(tmp_path / "log.db", key_of(tmp_path)).is_good
