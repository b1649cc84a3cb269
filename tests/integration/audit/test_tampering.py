"""The tamper catalogue: whatever kind of change, at whatever place, is found, and the place is named.

`RINGFENCE_MUTATIONS=10000` runs that many random ones; the suite runs a few of each kind.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ringfence_audit.events import Event, Kind
from ringfence_audit.index import Index
from ringfence_audit.index_check import check_index
from ringfence_audit.keys import Signer
from ringfence_audit.notes import Checkpoint, VerifierKey, sign_checkpoint
from ringfence_audit.store import SqlStore
from ringfence_audit.verify import Verdict, verify_file
from tests.integration.audit.forging import rewrite
from tests.integration.audit.logs import ORIGIN, copy_of, run_events, seal, write

SIGNER = Signer.generate(ORIGIN)
KEY = VerifierKey.of_log(ORIGIN, SIGNER.public_key)
SIZE = 602
MUTATIONS = int(os.environ.get("RINGFENCE_MUTATIONS", "160"))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several runs, two full tiles and a part of one, ten checkpoints, some large values, at rest."""
    folder = tmp_path_factory.mktemp("log")
    with SqlStore.open(f"sqlite:///{folder}/live.db", signer=SIGNER) as store:
        store.create_schema()
        for number in range(10):
            write(store, run_events(f"r{number}", 29)[:-1])
            body = f"output {number} " * 700
            write(store, [Event(Kind.RUN_CLOSED, f"agent:r{number}", {"summary": body}, f"r{number}")])
            seal(store)
        write(
            store, [Event(Kind.OUTCOME, "agent:r9", {"status": "ok"}, "r9"), Event(Kind.CONTROL, "person:a", {}, "r9")]
        )
        seal(store)
        index = Index(folder / "index.db")
        store.read_now(index.catch_up)
        index.close()
    shutil.copytree(folder / "live.db-blobs", folder / "log.db-blobs")
    return copy_of(folder / "live.db", folder / "log.db")


class Forger:
    """Changes a copy of the log in one way, somewhere, and says where the first change lies (None: no single place)."""

    def __init__(self, copy: Path, chance: random.Random) -> None:
        self.copy = copy
        self.chance = chance
        self.database = sqlite3.connect(copy)

    def entry(self, position: int) -> bytes:
        query = "SELECT entry FROM audit_entries WHERE position = ?"
        return bytes(self.database.execute(query, (position,)).fetchone()[0])

    def put(self, position: int, raw: bytes) -> None:
        self.database.execute("UPDATE audit_entries SET entry = ? WHERE position = ?", (raw, position))

    def flip(self) -> int:
        position = self.chance.randrange(SIZE)
        raw = bytearray(self.entry(position))
        raw[self.chance.randrange(len(raw))] ^= 1 << self.chance.randrange(8)
        self.put(position, bytes(raw))
        return position

    def drop(self) -> int:
        position = self.chance.randrange(SIZE)
        self.database.execute("DELETE FROM audit_entries WHERE position = ?", (position,))
        if self.chance.random() < 0.5:  # and close the gap behind it
            self.database.execute("UPDATE audit_entries SET position = -position WHERE position > ?", (position,))
            self.database.execute("UPDATE audit_entries SET position = -position - 1 WHERE position < 0")
            self.database.execute("UPDATE audit_head SET size = size - 1")
        return position

    def insert(self) -> int:
        position, source = self.chance.randrange(SIZE + 1), self.chance.randrange(SIZE)
        raw = self.entry(source)
        self.database.execute("UPDATE audit_entries SET position = -position WHERE position >= ?", (max(position, 1),))
        self.database.execute("UPDATE audit_entries SET position = -position + 1 WHERE position < 0")
        if position == 0:
            self.database.execute("UPDATE audit_entries SET position = 1 WHERE position = 0")
        self.database.execute("INSERT INTO audit_entries (position, entry) VALUES (?, ?)", (position, raw))
        if self.chance.random() < 0.5:
            self.database.execute("UPDATE audit_head SET size = size + 1")
        return position

    def swap(self) -> int:
        first, second = sorted(self.chance.sample(range(SIZE), 2))
        one, two = self.entry(first), self.entry(second)
        self.put(first, two)
        self.put(second, one)
        return first

    def truncate(self) -> int | None:
        left = self.chance.randrange(1, SIZE)
        self.database.execute("DELETE FROM audit_entries WHERE position >= ?", (left,))
        if self.chance.random() < 0.5:
            self.database.execute("UPDATE audit_head SET size = ?", (left,))
            self.database.execute("DELETE FROM audit_checkpoints WHERE size > ?", (left,))
            self.database.execute("DELETE FROM audit_tiles WHERE (position + 1) * 256 > ?", (left,))
        return None

    def forge_signature(self) -> None:
        """A checkpoint with another signature, root or size, or signed by another key."""
        size, note = self.chance.choice(
            self.database.execute("SELECT size, note FROM audit_checkpoints ORDER BY size").fetchall()
        )
        forged = sign_checkpoint(Checkpoint(ORIGIN, size, bytes(32)), SIGNER)
        stranger = sign_checkpoint(Checkpoint(ORIGIN, size, bytes(32)), Signer.generate(ORIGIN))
        at = note.rindex(" ") + 8 + self.chance.randrange(60)
        spoiled = note[:at] + ("A" if note[at] != "A" else "B") + note[at + 1 :]
        new = self.chance.choice((forged, stranger, spoiled, note.replace(f"\n{size}\n", f"\n{size + 1}\n", 1)))
        self.database.execute("UPDATE audit_checkpoints SET note = ? WHERE size = ?", (new, size))

    def close(self) -> None:
        self.database.commit()
        self.database.close()


KINDS: Mapping[str, Callable[[Forger], int | None]] = {
    "flip": Forger.flip,
    "drop": Forger.drop,
    "insert": Forger.insert,
    "swap": Forger.swap,
    "truncate": Forger.truncate,
    "forge a signature": Forger.forge_signature,
}


def judged(log: Path, number: int, kind: str) -> tuple[Verdict, int | None]:
    copy = log.with_name("copy.db")
    shutil.copyfile(log, copy)
    forger = Forger(copy, random.Random(number))
    try:
        place = KINDS[kind](forger)
    finally:
        forger.close()
    return verify_file(copy, KEY, is_evidence_only=True), place


@pytest.mark.parametrize("kind", KINDS)
def test_every_change_is_found_and_its_place_named(log: Path, kind: str) -> None:
    for number in range(MUTATIONS // len(KINDS)):
        verdict, place = judged(log, number, kind)
        assert not verdict.is_intact, (kind, number)
        assert verdict.problem, (kind, number)
        if place is not None:
            # Where only the last entry of a run shows the damage, the one before it is named as well as can be.
            assert verdict.position is not None, (kind, number, verdict.text)
            assert verdict.position <= place + 1, (kind, number, place, verdict.text)


def test_a_flipped_bit_is_named_where_it_is(log: Path) -> None:
    """Where it hits what an entry says of the one before it, both are named."""
    for number in range(1_000, 1_000 + MUTATIONS // 16):
        verdict, place = judged(log, number, "flip")
        assert f"entry {place}" in verdict.text, (number, place, verdict.text)


def test_rolling_back_to_an_old_head_is_found_by_an_anchor(log: Path) -> None:
    copy = log.with_name("rolled.db")
    shutil.copyfile(log, copy)
    with closing(sqlite3.connect(copy)) as database, database:
        notes = database.execute("SELECT size, note FROM audit_checkpoints ORDER BY size").fetchall()
        old, newest = notes[3][0], notes[-1][1]
        database.execute("DELETE FROM audit_entries WHERE position >= ?", (old,))
        database.execute("DELETE FROM audit_checkpoints WHERE size > ?", (old,))
        database.execute("DELETE FROM audit_tiles WHERE (position + 1) * 256 > ?", (old,))
        database.execute("UPDATE audit_head SET size = ?", (old,))
        database.execute("DELETE FROM audit_streams WHERE stream IN ('r4','r5','r6','r7','r8','r9')")
    assert verify_file(copy, KEY, is_evidence_only=True).is_intact
    assert "cut back: an anchored checkpoint has" in verify_file(copy, KEY, anchors=[newest]).text
    assert verify_file(copy, KEY, anchors=[notes[2][1]]).is_intact


def test_a_suffix_rewritten_with_a_valid_chain_is_found_by_an_anchor(log: Path) -> None:
    copy = log.with_name("rewritten.db")
    shutil.copyfile(log, copy)
    with closing(sqlite3.connect(copy)) as database:
        notes = [note for (note,) in database.execute("SELECT note FROM audit_checkpoints ORDER BY size")]

    def edit(position: int, event: dict[str, Any]) -> Mapping[str, Any]:
        return {**event, "actor": "agent:someone"} if position >= 400 else event

    rewrite(copy, SIGNER, edit)
    assert verify_file(copy, KEY, is_evidence_only=True).is_intact
    assert "not the one that was anchored at" in verify_file(copy, KEY, anchors=notes[-1:]).text
    assert verify_file(copy, KEY, anchors=notes[:2]).is_intact


def test_a_changed_large_value_and_a_changed_index_row_are_found(log: Path) -> None:
    chance = random.Random(5)
    bodies = sorted(path for path in log.with_name("log.db-blobs").rglob("*") if path.is_file())
    assert len(bodies) == 10
    body = chance.choice(bodies)
    good = body.read_bytes()
    body.write_bytes(good[:-1] + b"x")
    try:
        assert "a large value of it was changed" in verify_file(log, KEY).text
    finally:
        body.write_bytes(good)
    for number in range(5):
        copy = log.with_name(f"index{number}.db")
        for suffix in ("", "-text"):
            shutil.copyfile(log.with_name(f"index.db{suffix}"), log.with_name(f"index{number}.db{suffix}"))
        index = Index(copy)
        position = chance.randrange(SIZE)
        index.raw.execute("UPDATE entry SET kind = kind + 1 WHERE position = ?", (position,))
        with SqlStore.open(f"sqlite:///{log.with_name('live.db')}", signer=SIGNER) as store:
            fault = store.read_now(lambda c, i=index: check_index(i, c, size=SIZE))  # type: ignore[misc]  # bound per turn
        index.close()
        assert fault is not None
        assert fault.position == position
