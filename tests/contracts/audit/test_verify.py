"""Whatever is changed in a log is found, and named."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringfence_audit.events import Event, JsonValue, Kind
from ringfence_audit.keys import Signer
from ringfence_audit.notes import VerifierKey
from ringfence_audit.store import SqlStore
from ringfence_audit.verify import Grade, verify_file

SIGNER = Signer.generate("test.example/log")
KEY = VerifierKey.of_log("test.example/log", SIGNER.public_key)
SIZE = 24


@pytest.fixture
async def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.db"
    with SqlStore.open(f"sqlite:///{path}", signer=SIGNER) as store:
        store.create_schema()
        for number in range(SIZE):
            run, kind = f"r{number % 3}", Kind.INTENT if number < SIZE - 3 else Kind.OUTCOME
            event = Event(kind, "agent:r", {"number": number}, run=run, call=f"{run}/1/0")
            await store.write(lambda tx, event=event: tx.record(event))  # type: ignore[misc]  # bound per turn
        await store.checkpoint()
    copy = tmp_path / "copy.db"
    with sqlite3.connect(path) as live, sqlite3.connect(copy) as target:
        live.backup(target)
    return copy


def changed(log: Path, *statements: str) -> Path:
    copy = log.with_name("changed.db")
    shutil.copyfile(log, copy)
    with sqlite3.connect(copy) as connection:
        for statement in statements:
            connection.execute(statement)
    return copy


async def test_an_untouched_log_is_intact_and_honestly_not_anchored(log: Path) -> None:
    verdict = verify_file(log, KEY)
    assert (verdict.grade, verdict.size, verdict.open_calls) == (Grade.INTACT, SIZE, ())


@pytest.mark.parametrize("position", [0, 1, 7, SIZE - 4, SIZE - 1])
async def test_one_changed_byte_is_found_in_its_entry(log: Path, position: int) -> None:
    statement = f"UPDATE audit_entries SET entry = CAST(replace(CAST(entry AS TEXT), '\"number\":', '\"numbex\":') AS BLOB) WHERE position = {position}"  # noqa: E501
    verdict = verify_file(changed(log, statement), KEY)
    assert (verdict.grade, verdict.position) == (Grade.BROKEN, position)


@pytest.mark.parametrize(
    "statements",
    [
        ("DELETE FROM audit_entries WHERE position = 5",),
        (f"DELETE FROM audit_entries WHERE position = {SIZE - 1}",),
        (f"DELETE FROM audit_entries WHERE position >= {SIZE - 4}", f"UPDATE audit_head SET size = {SIZE - 4}"),
        (f"INSERT INTO audit_entries SELECT {SIZE}, entry FROM audit_entries WHERE position = 3",),
        (
            "UPDATE audit_entries SET position = -1 WHERE position = 2",
            "UPDATE audit_entries SET position = 2 WHERE position = 5",
            "UPDATE audit_entries SET position = 5 WHERE position = -1",
        ),
        ("UPDATE audit_checkpoints SET note = replace(note, 'test.example', 'evil.example')",),
        ("UPDATE audit_checkpoints SET note = 'x'",),
        ("UPDATE audit_streams SET length = length - 1",),
        ("UPDATE audit_streams SET length = 'x'",),
        ("UPDATE audit_checkpoints SET note = X'00'",),
        ("INSERT INTO audit_tiles VALUES (0, 0, 'text')",),
        ("INSERT INTO audit_tiles VALUES (0, 0, 7)",),
        ("UPDATE audit_head SET size = size + 1",),
    ],
)
async def test_the_tamper_catalogue_is_found(log: Path, statements: tuple[str, ...]) -> None:
    assert not verify_file(changed(log, *statements), KEY).is_intact


async def test_a_log_cut_back_to_an_older_head_is_found_by_its_anchor(log: Path) -> None:
    with sqlite3.connect(log) as connection:
        (note,) = connection.execute("SELECT note FROM audit_checkpoints ORDER BY size DESC LIMIT 1").fetchone()
    assert verify_file(log, KEY, anchors=[note]).grade is Grade.ANCHORED
    cut = changed(
        log,
        f"DELETE FROM audit_entries WHERE position >= {SIZE - 3}",
        f"DELETE FROM audit_checkpoints WHERE size > {SIZE - 3}",
    )
    assert not verify_file(cut, KEY, anchors=[note]).is_intact


async def test_another_key_signed_it(log: Path) -> None:
    other = VerifierKey.of_log("test.example/log", Signer.generate("test.example/log").public_key)
    assert not verify_file(log, other).is_intact


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, SIZE - 1), offset=st.integers(0, 10_000), bit=st.integers(0, 7))
async def test_any_flipped_bit_breaks_the_log_and_raises_nothing(
    log: Path, position: int, offset: int, bit: int
) -> None:
    copy = changed(log)
    with sqlite3.connect(copy) as connection:
        (raw,) = connection.execute("SELECT entry FROM audit_entries WHERE position = ?", (position,)).fetchone()
        body = bytearray(raw)
        body[offset % len(body)] ^= 1 << bit
        connection.execute("UPDATE audit_entries SET entry = ? WHERE position = ?", (bytes(body), position))
    assert not verify_file(copy, KEY).is_intact


async def test_a_file_that_is_no_log_is_broken_not_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"not a database" * 100)
    assert not verify_file(tmp_path / "x.db", KEY).is_intact
    assert not verify_file(tmp_path / "absent.db", KEY).is_intact


async def test_a_log_that_is_being_written_is_judged_at_one_moment(tmp_path: Path) -> None:
    path = tmp_path / "live ?.db"
    with SqlStore.open(f"sqlite:///{tmp_path}/live.db", signer=SIGNER) as store:
        store.create_schema()
        done = asyncio.Event()

        async def write() -> None:
            for number in range(300):
                await store.write(lambda tx, n=number: tx.record(Event(Kind.GAP, "s", {"n": n})))  # type: ignore[misc]
            done.set()

        writing = asyncio.create_task(write())
        while not done.is_set():
            verdict = await asyncio.to_thread(verify_file, tmp_path / "live.db", KEY)
            assert verdict.is_intact, verdict.text
        await writing
    shutil.copyfile(tmp_path / "live.db", path)
    assert verify_file(path, KEY).is_intact


async def test_acting_on_other_bytes_than_were_approved_is_found(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with SqlStore.open(f"sqlite:///{path}", signer=SIGNER) as store:
        store.create_schema()
        asked: dict[str, JsonValue] = {"escalation": 1, "digest": "aa"}
        events = (
            Event(Kind.ESCALATION, "agent:r", asked, run="r"),
            Event(Kind.VOTE, "person:ana", {**asked, "verdict": "approve"}, run="r"),
            Event(Kind.SETTLED, "person:ana", {**asked, "state": "approved"}, run="r"),
            Event(Kind.INTENT, "agent:r", {"escalation": 1, "digest": "bb"}, run="r", call="r/1/0"),
        )
        for event in events:
            await store.write(lambda tx, event=event: tx.record(event))  # type: ignore[misc]  # bound per turn
    verdict = verify_file(path, KEY)
    assert (verdict.is_good, verdict.position) == (False, 3)
    assert "other bytes than those that E-1 approved" in verdict.text
