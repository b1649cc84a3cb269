"""Verification of whole logs: what a forger does with the file, and with the key as well."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from ringfence_audit.counting import Finding
from ringfence_audit.errors import LogUnavailable
from ringfence_audit.events import Event, JsonValue, Kind
from ringfence_audit.keys import Signer
from ringfence_audit.notes import VerifierKey, cosign
from ringfence_audit.producers import CountedStore
from ringfence_audit.store import SqlStore
from ringfence_audit.verify import Grade, Verdict, verify_file
from tests.integration.audit.forging import rewrite
from tests.integration.audit.logs import ORIGIN, call_events, copy_of, open_log, run_events, seal, write

SIGNER = Signer.generate(ORIGIN)
KEY = VerifierKey.of_log(ORIGIN, SIGNER.public_key)


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """66,000 entries: a tree with a full tile above the lowest level."""
    folder = tmp_path_factory.mktemp("big")
    with open_log(folder / "live.db", SIGNER) as store:
        write(store, [Event(Kind.GAP, "system:x", {"n": n}, f"r{n % 50}") for n in range(66_000)])
        seal(store)
    return copy_of(folder / "live.db", folder / "log.db")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two runs, counted by a gate, checkpointed twice, with one large value."""
    with open_log(tmp_path / "live.db", SIGNER) as store:
        gate = CountedStore(store, Signer.generate("gate.example"), role="gate")
        counted(gate, run_events("r1", 6))
        seal(store)
        text = "a long output " * 900
        counted(gate, [*call_events("r2", 0, text=text), *call_events("r2", 1)])
        asyncio.run(gate.sign())
        write(store, [Event(Kind.RUN_CLOSED, "agent:r2", {"status": "finished"}, "r2")])
        seal(store)
    shutil.copytree(tmp_path / "live.db-blobs", tmp_path / "log.db-blobs")
    return copy_of(tmp_path / "live.db", tmp_path / "log.db")


def counted(gate: CountedStore, events: list[Event]) -> None:
    async def each() -> None:
        for event in events:
            await gate.write(lambda tx, event=event: tx.record(event))  # type: ignore[misc]  # bound per turn

    asyncio.run(each())


def changed(log: Path, *statements: str, now: datetime | None = None) -> Verdict:
    copy = log.with_name("changed.db")
    for old in (copy, copy.with_name("changed.db-wal"), copy.with_name("changed.db-shm")):
        old.unlink(missing_ok=True)
    shutil.copyfile(log, copy)
    with closing(sqlite3.connect(copy)) as connection, connection:
        for statement in statements:
            connection.execute(statement)
    return verify_file(copy, KEY, now=now)


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE audit_tiles SET hashes = zeroblob(8192) WHERE level = 1", "tile 0 of level 1"),
        ("DELETE FROM audit_tiles WHERE level = 1", "tile 0 of level 1"),
        ("DELETE FROM audit_tiles WHERE level = 0 AND position = 200", "entry 51200: the tile of the tree"),
        ("UPDATE audit_tiles SET hashes = zeroblob(8192) WHERE level = 0 AND position = 200", "entry 51200: it is not"),
        ("UPDATE audit_tiles SET hashes = zeroblob(8191) WHERE level = 0 AND position = 200", "not 256 hashes"),
        ("INSERT INTO audit_tiles SELECT 2, 0, hashes FROM audit_tiles WHERE level = 1", "entries that are not there"),
        ("INSERT INTO audit_tiles SELECT 0, 400, hashes FROM audit_tiles WHERE level = 1", "258 tiles for 257"),
        ("UPDATE audit_entries SET entry = NULL WHERE position = 700", "entry 700: its bytes are missing"),
        ("UPDATE audit_entries SET entry = 'text' WHERE position = 700", "entry 700: its bytes are missing"),
        ("UPDATE audit_entries SET entry = x'00' WHERE position = 700", "entry 700: it is not the entry whose hash"),
        ("DELETE FROM audit_checkpoints", "entry 0: no checkpoint covers the entries from 0 on"),
    ],
)
def test_damage_to_the_tree_is_found_and_named(big: Path, statement: str, words: str) -> None:
    verdict = changed(big, statement)
    assert not verdict.is_intact
    assert words in verdict.text


def test_two_processes_come_to_the_verdict_of_one(big: Path) -> None:
    copy = big.with_name("halves.db")
    shutil.copyfile(big, copy)
    with closing(sqlite3.connect(copy)) as connection, connection:
        connection.execute("UPDATE audit_entries SET entry = x'00' WHERE position IN (33100, 65999)")
    one, two = (verify_file(copy, KEY, processes=processes, is_evidence_only=True) for processes in (1, 2))
    assert (one.position, two) == (33_100, one)
    assert verify_file(big, KEY, processes=2, is_evidence_only=True).is_intact


def test_a_log_whose_checkpoints_were_all_taken_away_is_broken(small: Path) -> None:
    later = datetime.now(UTC) + timedelta(minutes=1)
    verdict = changed(small, "DELETE FROM audit_checkpoints", now=later)
    assert "it was committed with a checkpoint, and none covers it" in verdict.text


def test_a_log_in_its_first_seconds_may_lack_a_checkpoint(tmp_path: Path) -> None:
    with open_log(tmp_path / "live.db", SIGNER) as store:
        write(store, call_events("r1", 0))
        copy = copy_of(tmp_path / "live.db", tmp_path / "log.db")
    verdict = changed(copy, "DELETE FROM audit_checkpoints", now=datetime.now(UTC) + timedelta(minutes=1))
    assert (
        verdict.text == "intact, not anchored: 2 entries, 2 of them unanchored; complete; 2 not covered by a checkpoint"
    )


def test_an_ending_that_was_written_anew_without_the_key_is_broken(tmp_path: Path) -> None:
    """The run's last checkpoint is taken away, and all that it covered is replaced by a valid chain."""
    with open_log(tmp_path / "live.db", SIGNER) as store:
        write(store, run_events("r1", 2))
        head = store.newest_checkpoint()
        write(store, [*call_events("r2", 0), Event(Kind.RUN_CLOSED, "agent:r2", {"status": "finished"}, "r2")])
        assert store.newest_checkpoint() != head
        copy = copy_of(tmp_path / "live.db", tmp_path / "log.db")
    verdict = changed(copy, "DELETE FROM audit_checkpoints WHERE size > 6")
    assert (verdict.is_intact, verdict.position) == (False, 8)
    evidence = verify_file(copy.with_name("changed.db"), KEY, is_evidence_only=True)
    assert evidence.position == 8


def test_no_writer_signs_an_ending_whose_checkpoints_were_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with open_log(path, SIGNER) as store:
        write(store, run_events("r1", 2))
        write(store, call_events("r2", 0))
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM audit_checkpoints")
    with open_log(path, SIGNER) as store:
        with pytest.raises(LogUnavailable, match="checkpoints were taken away; run verify and restore"):
            write(store, call_events("r3", 0))
        assert store.newest_checkpoint() is None
    assert "checkpoints were taken away" in verify_file(path, KEY).text


def at_moments(path: Path, *moments: datetime) -> Path:
    """A log whose writer was killed at each moment, before it could sign: no second of the clock ever passes."""
    for number, moment in enumerate(moments):
        with SqlStore.open(f"sqlite:///{path}", signer=SIGNER, clock=lambda moment=moment: moment) as store:  # type: ignore[misc]  # bound per turn
            store.create_schema()
            write(store, call_events("r1", number))
            copy_of(path, path.with_name("killed.db"))
        path.unlink()
        path.with_name("killed.db").rename(path)
    return path


def test_crashes_days_apart_do_not_make_a_log_a_broken_one(tmp_path: Path) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    days = [start + timedelta(days=number) for number in range(4)]
    log = at_moments(tmp_path / "log.db", *days)
    at_once, later = (verify_file(log, KEY, now=days[-1] + timedelta(seconds=after)) for after in (0, 3600))
    assert (
        at_once.text == "intact, not anchored: 8 entries, 8 of them unanchored; complete; 2 not covered by a checkpoint"
    )
    assert later == at_once


def test_entries_of_several_days_without_a_checkpoint_are_broken(tmp_path: Path) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    days = [start + timedelta(days=number) for number in range(4)]
    log = at_moments(tmp_path / "log.db", *days)
    verdict = changed(log, "DELETE FROM audit_checkpoints", now=days[-1])
    assert verdict.text == (
        "NOT INTACT: entry 0: no checkpoint covers the entries from 0 on: checkpoints were taken away"
    )


def test_a_changed_large_value_is_found_at_its_entry(small: Path) -> None:
    (body,) = [path for path in small.with_name("log.db-blobs").rglob("*") if path.is_file()]
    good = body.read_bytes()
    body.write_bytes(good.replace(b"output", b"0utput", 1))
    verdict = verify_file(small, KEY)
    assert not verdict.is_intact
    assert "a large value of it was changed" in verdict.text
    body.unlink()
    assert (verify_file(small, KEY).is_good, verify_file(small, KEY).absent_bodies) == (True, 1)


def without_the_call(position: int, event: dict[str, Any]) -> Mapping[str, Any] | None:
    return None if event["call"] == "r1/2/0" else event


def test_whoever_holds_the_key_is_found_when_an_intent_goes_with_its_outcome(small: Path) -> None:
    rewrite(small, SIGNER, without_the_call)
    verdict = verify_file(small, KEY)
    assert (verdict.grade, verdict.is_complete, verdict.is_good) == (Grade.INTACT, False, False)
    assert "is missing, and no gap accounts for it" in verdict.text


def test_numbers_given_out_anew_do_not_hide_it(small: Path) -> None:
    shift = 0

    def renumber(position: int, event: dict[str, Any]) -> Mapping[str, Any] | None:
        nonlocal shift
        if event["call"] == "r1/2/0":
            shift += 1
            return None
        stamp = event["data"].get("producer", {})
        if "n" in stamp:
            stamp["n"] -= shift
        return event

    rewrite(small, SIGNER, renumber)
    assert verify_file(small, KEY).is_complete is False


def test_another_history_with_valid_signatures_is_found_by_an_anchor(small: Path) -> None:
    with closing(sqlite3.connect(small)) as connection:
        notes = [note for (note,) in connection.execute("SELECT note FROM audit_checkpoints ORDER BY size")]
    witness = Signer.generate("witness.example/w1")
    anchor = cosign(notes[-1], witness, seconds=1_800_000_000)
    keys = [VerifierKey.of_witness("witness.example/w1", witness.public_key)]
    assert verify_file(small, KEY, anchors=[notes[0]]).grade is Grade.ANCHORED
    assert verify_file(small, KEY, anchors=[anchor], witnesses=keys).grade is Grade.WITNESSED
    assert verify_file(small, KEY, anchors=[anchor]).grade is Grade.ANCHORED
    assert verify_file(small, KEY, anchors=[notes[0]]).unanchored > 0

    def soften(position: int, event: dict[str, Any]) -> Mapping[str, Any]:
        return {**event, "actor": "agent:someone"} if position == 3 else event

    rewrite(small, SIGNER, soften)
    assert verify_file(small, KEY).is_intact
    for kept in notes:
        assert "not the one that was anchored" in verify_file(small, KEY, anchors=[kept]).text


def test_a_whole_log_is_complete(small: Path) -> None:
    verdict = verify_file(small, KEY)
    assert (verdict.grade, verdict.is_complete, verdict.findings) == (Grade.INTACT, True, ())
    assert verdict.text == f"intact, not anchored: {verdict.size} entries, {verdict.size} of them unanchored; complete"


# -- what producers count -------------------------------------------------------------------------------------------


async def test_numbers_of_a_transaction_that_failed_are_given_out_again(tmp_path: Path) -> None:
    with open_log(tmp_path / "log.db", SIGNER) as store:
        gate = CountedStore(store, Signer.generate("gate.example"), role="gate")

        def fail(tx: Any) -> None:
            tx.record(Event(Kind.OUTCOME, "agent:r", {"n": 1}, "r"))
            raise KeyError("mine")

        for _ in range(3):
            with pytest.raises(KeyError):
                await gate.write(fail)
            await gate.write(lambda tx: tx.record(Event(Kind.OUTCOME, "agent:r", {"n": 2}, "r")))
        await gate.sign()
    verdict = verify_file(tmp_path / "log.db", KEY)
    assert (verdict.is_complete, verdict.findings) == (True, ())


async def test_a_gap_is_reported_once_the_log_can_be_written_again(tmp_path: Path) -> None:
    with open_log(tmp_path / "log.db", SIGNER) as store:
        gate = CountedStore(_Failing(store), Signer.generate("gate.example"), role="gate")  # type: ignore[arg-type]  # the part of a store that is used
        for number in range(9):
            data: Mapping[str, JsonValue] = {"n": number}
            work = lambda tx, data=data: tx.record(Event(Kind.OUTCOME, "agent:r", data, "r"))  # noqa: E731
            if number % 3 == 1:
                with pytest.raises(Exception, match="disk"):
                    await gate.write(work)
            else:
                await gate.write(work)
        await gate.sign()
    verdict = verify_file(tmp_path / "log.db", KEY)
    assert (verdict.is_complete, verdict.findings) == (True, ())
    with closing(sqlite3.connect(tmp_path / "log.db")) as connection:
        query = 'SELECT count(*) FROM audit_entries WHERE CAST(entry AS TEXT) LIKE \'%"kind":"audit.gap"%\''
        assert connection.execute(query).fetchone() == (3,)


async def test_what_people_do_is_numbered_over_all_processes(tmp_path: Path) -> None:
    """Votes come from short processes, one after another and at once; one that fails takes no number."""
    people = Signer.generate("people.example")
    url = f"sqlite:///{tmp_path}/log.db"
    with SqlStore.open(url, signer=SIGNER, people=lambda: people) as store:
        store.create_schema()
        with SqlStore.open(url, signer=SIGNER, people=lambda: people) as other:
            for number in range(4):
                for each in (store, other):
                    await each.write(lambda tx, n=number: tx.record(act(n)))  # type: ignore[misc]  # bound per turn
                with pytest.raises(KeyError):
                    await store.write(failing)
    stamps = [stamp for event in events_of(tmp_path / "log.db") if (stamp := event["data"].get("producer"))]
    assert [stamp["n"] for stamp in stamps] == list(range(8))
    assert len({stamp["id"] for stamp in stamps}) == 1
    verdict = verify_file(tmp_path / "log.db", KEY)
    assert (verdict.is_complete, verdict.findings) == (True, ())


def act(number: int) -> Event:
    return Event(Kind.LOGIN, "person:ana" if number % 2 else "system:auth", {"what": "login", "n": number})


def failing(tx: Any) -> None:
    tx.record(act(1))
    raise KeyError("mine")


def events_of(path: Path) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT entry FROM audit_entries ORDER BY position").fetchall()
    return [orjson.loads(raw)["event"] for (raw,) in rows]


def test_nothing_is_done_for_a_person_whose_act_cannot_be_signed(tmp_path: Path) -> None:
    path = tmp_path / "acts.key"
    path.write_bytes(b"no key")
    path.chmod(0o600)
    load = partial(Signer.load, path, "people.example")
    with SqlStore.open(f"sqlite:///{tmp_path}/log.db", signer=SIGNER, people=load) as store:
        store.create_schema()
        with pytest.raises(LogUnavailable, match="what people do cannot be signed"):
            write(store, [act(1)])
        write(store, [Event(Kind.OUTCOME, "agent:r", {}, "r")])
    assert [event["kind"] for event in events_of(tmp_path / "log.db")] == ["call.outcome"]


def test_a_vote_dropped_with_what_it_allowed_is_found(tmp_path: Path) -> None:
    """By somebody who holds the log's key, and gives the later acts of people their numbers anew."""
    people, path = Signer.generate("people.example"), tmp_path / "log.db"
    with SqlStore.open(f"sqlite:///{path}", signer=SIGNER, people=lambda: people) as store:
        store.create_schema()
        gate = CountedStore(store, Signer.generate("gate.example"), role="gate")
        write(store, run_events("r1", 1))
        asked: dict[str, JsonValue] = {"escalation": 1, "digest": "aa", "terms": {"any_of": ["lead"]}}
        voted: dict[str, JsonValue] = {"escalation": 1, "digest": "aa", "verdict": "approve", "groups": ["lead"]}
        counted(gate, [Event(Kind.ESCALATION, "agent:r2", asked, "r2", "r2/1/0", "person:ana")])
        write(store, [Event(Kind.VOTE, "person:ben", voted, "r2", "r2/1/0")])
        write(store, [Event(Kind.SETTLED, "person:ben", {**asked, "state": "approved"}, "r2", "r2/1/0")])
        write(store, run_events("r3", 1))
    assert verify_file(path, KEY).is_good
    honest = copy_of(path, tmp_path / "honest.db")

    def without_the_vote(_: int, event: dict[str, Any]) -> Mapping[str, Any] | None:
        return None if event["kind"] in ("escalation.vote", "escalation.settled") else event

    rewrite(path, SIGNER, without_the_vote)
    assert "is missing, and no gap accounts for it" in verify_file(path, KEY).text

    def renumbered(_: int, event: dict[str, Any]) -> Mapping[str, Any] | None:
        kept = without_the_vote(0, event)
        stamp = event["data"].get("producer", {})
        if kept is not None and stamp.get("id", "").startswith("people:") and stamp["n"] >= 3:
            stamp["n"] -= 2
        return kept

    rewrite(honest, SIGNER, renumbered)
    verdict = verify_file(honest, KEY)
    assert verdict.is_complete is False
    assert "of people:" in verdict.text


class _Failing:
    """Every third transaction fails at its commit."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self._count = 0

    async def write(self, work: Any) -> Any:
        self._count += 1
        if self._count % 3 != 2:
            return await self._store.write(work)

        def undone(tx: Any) -> None:
            work(tx)
            raise OSError("disk full")

        try:
            return await self._store.write(undone)
        except OSError as error:
            raise LogUnavailable("disk full") from error


def test_findings_read_as_a_sentence() -> None:
    assert str(Finding(3, "it is gone")) == "entry 3: it is gone"
