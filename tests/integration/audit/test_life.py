"""How long entries live: dropped bodies leave proofs whole, holds hold, erased fields are gone, keys change."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from ringfence_audit.dropped import ranges_of, rows_between
from ringfence_audit.errors import EntryNotFound, Held, InvalidEvent
from ringfence_audit.events import Event, Kind, Personal
from ringfence_audit.facts import parse_entry
from ringfence_audit.keys import KeyUnusable, Signer
from ringfence_audit.life import Dropping, drop, drop_bodies, droppable, lift_hold, list_holds, place_hold
from ringfence_audit.merkle import leaf_hash, root_from_inclusion
from ringfence_audit.notes import VerifierKey, parse_checkpoint, parse_note
from ringfence_audit.offline import NotProved, parse_key, verify_export
from ringfence_audit.personal import ERASED, erase, reveal
from ringfence_audit.producers import CountedStore
from ringfence_audit.proofs import inclusion_text
from ringfence_audit.query import Filter, matching, raw_of, show
from ringfence_audit.report import make_report
from ringfence_audit.rotation import rotate
from ringfence_audit.store import SqlStore
from ringfence_audit.tree import TreeReader
from ringfence_audit.verify import verify_file
from tests.integration.audit.forging import rewrite
from tests.integration.audit.logs import ORIGIN, call_events, copy_of, export_lines, run_events, seal, write

SIGNER = Signer.generate(ORIGIN)
KEY = VerifierKey.of_log(ORIGIN, SIGNER.public_key)
OLD = datetime(2026, 1, 1, tzinfo=UTC)
BETWEEN = datetime(2026, 6, 1, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = OLD

    def __call__(self) -> datetime:
        self.now += timedelta(milliseconds=1)
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> SqlStore:
    """300 old runs' entries, one old run that is still open, and a new run."""
    store = SqlStore.open(f"sqlite:///{tmp_path}/log.db", signer=SIGNER, clock=clock)
    store.create_schema()
    write(store, run_events("r1", 200))
    write(store, call_events("open", 0))
    body = Event(Kind.OUTCOME, "agent:r2", {"text": "shared " * 2_000}, "r2", "r2/9/0")
    write(store, [body, *run_events("r2", 60)])
    clock.now = BETWEEN + timedelta(days=60)
    write(store, run_events("r3", 60))
    seal(store)
    return store


def may_go(store: SqlStore) -> Dropping:
    return store.read_now(lambda connection: droppable(connection, BETWEEN, blobs=store.blobs))


def prune(store: SqlStore) -> int:
    found = may_go(store)
    if found.places:
        _write(store, lambda tx: drop(tx, found, by="person:ana"))
        _write(store, lambda tx: drop_bodies(tx.connection, found, store.blobs))
    return len(found.places)


def _write(store: SqlStore | CountedStore, work: object) -> None:
    import asyncio

    asyncio.run(store.write(work))  # type: ignore[arg-type]  # a lambda over the transaction


def test_nothing_of_a_held_run_goes_and_nothing_at_all_under_a_whole_hold(store: SqlStore) -> None:
    _write(store, lambda tx: place_hold(tx, "case-1", run="", reason="court", by="person:ana"))
    assert prune(store) == 0
    _write(store, lambda tx: place_hold(tx, "case-1", run="r1", reason="court", by="person:ana"))
    gone = may_go(store)
    assert {place.stream for place in gone.places} == {"r2"}
    assert [hold.run for hold in store.read_now(list_holds)] == ["r1"]
    with pytest.raises(EntryNotFound):
        _write(store, lambda tx: lift_hold(tx, "absent", reason="x", by="person:ana"))
    _write(store, lambda tx: lift_hold(tx, "case-1", reason="settled", by="person:ana"))
    assert {place.stream for place in may_go(store).places} == {
        "r1",
        "r2",
    }


def test_a_hold_placed_while_retention_was_at_work_still_holds(store: SqlStore) -> None:
    found = may_go(store)
    _write(store, lambda tx: place_hold(tx, "case-7", run="r1", reason="a claim", by="person:ana"))
    with pytest.raises(Held, match="case-7"):
        _write(store, lambda tx: drop(tx, found, by="person:ana"))
    assert all(place.stream != "r1" for place in may_go(store).places)


def test_a_large_value_that_was_named_again_meanwhile_is_kept(store: SqlStore) -> None:
    found = may_go(store)
    assert len(found.bodies) == 1
    write(store, [Event(Kind.OUTCOME, "agent:r4", {"text": "shared " * 2_000}, "r4", "r4/0/0")])
    _write(store, lambda tx: drop(tx, found, by="person:ana"))
    _write(store, lambda tx: drop_bodies(tx.connection, found, store.blobs))
    assert store.read_now(lambda c: store.blobs.get(found.bodies[0], c)) is not None


def test_old_proofs_hold_after_bodies_were_dropped(store: SqlStore, tmp_path: Path) -> None:
    before = store.read_now(lambda c: show(c, 70))
    body = next(iter((tmp_path / "log.db-blobs").rglob("[0-9a-f]" * 64)))
    assert prune(store) == 512 - 2
    assert not body.exists()
    assert root_from_inclusion(leaf_hash(before.raw), 70, before.size, proof=before.proof) == before.root
    with pytest.raises(EntryNotFound):
        store.read_now(lambda c: raw_of(c, 70))
    root, path = store.read_now(lambda c: (TreeReader(c).root(before.size), TreeReader(c).inclusion(70, before.size)))
    assert (root, tuple(path)) == (before.root, before.proof)
    store.close()
    verdict = verify_file(tmp_path / "log.db", KEY)
    assert (verdict.is_good, verdict.pruned) == (True, 510), verdict.text
    assert b"mend the tests" not in (tmp_path / "log.db").read_bytes()[: 4096 * 4]


def test_a_dropped_run_is_still_proved_by_its_hashes(store: SqlStore) -> None:
    prune(store)
    verdict = verify_export(export_lines(store, Filter(run="r1")), [parse_key(str(KEY))])
    assert (verdict.entries, verdict.pruned) == (402, 402)


def test_an_entry_cannot_be_withheld_as_if_retention_had_dropped_it(store: SqlStore) -> None:
    """Its hash alone still proves its place: whoever writes the export might say so of an entry that he has."""
    prune(store)
    lines = export_lines(store, Filter(run="r3"))
    shown = [number for number, line in enumerate(lines) if line.startswith(b'{"type":"entry"')]
    told = orjson.loads(lines[shown[5]])
    leaf = base64.b64encode(leaf_hash(told["entry"].encode())).decode()
    bare = {"type": "entry", "index": told["index"], "leaf": leaf, "proof": told["proof"]}
    withheld = [*lines[: shown[5]], as_line(bare), *lines[shown[5] + 1 :]]
    with pytest.raises(NotProved, match=f"entry {told['index']}: it is withheld, and no entry says"):
        verify_export(withheld, [parse_key(str(KEY))])
    (said,) = [line for line in export_lines(store, Filter(run="r1")) if line.startswith(b'{"type":"prune"')]
    # What retention did drop excuses no other entry. Proofs are of the same size where the log has not grown since.
    grown = export_lines(store, Filter(run="r3"))
    at = orjson.loads(said)["index"]
    proof = store.read_now(lambda c: inclusion_text(at, TreeReader(c).inclusion(at, checkpoint_size(grown))))
    named = as_line({**orjson.loads(said), "proof": proof})
    first = next(number for number, line in enumerate(grown) if line.startswith(b'{"type":"entry"'))
    entry = orjson.loads(grown[first + 5])
    bare = {"type": "entry", "index": entry["index"], "leaf": leaf, "proof": entry["proof"]}
    end = as_line({"type": "end", "lines": len(grown) + 1})
    with pytest.raises(NotProved, match=f"entry {told['index']}: it is withheld, and no entry says"):
        verify_export(
            [*grown[:first], named, *grown[first : first + 5], as_line(bare), *grown[first + 6 : -1], end],
            [parse_key(str(KEY))],
        )


def test_what_retention_dropped_is_not_believed_without_the_entry_that_says_so(store: SqlStore) -> None:
    prune(store)
    lines = export_lines(store, Filter(run="r1"))
    kept = [line for line in lines[:-1] if not line.startswith(b'{"type":"prune"')]
    assert len(kept) == len(lines) - 2
    with pytest.raises(NotProved, match="entry 0: it is withheld"):
        verify_export([*kept, as_line({"type": "end", "lines": len(kept) + 1})], [parse_key(str(KEY))])


def test_a_dropped_run_is_proved_also_where_the_ranges_are_a_large_value(tmp_path: Path, clock: Clock) -> None:
    """Every second entry stays: 896 ranges, which leave the entry as a body."""
    with SqlStore.open(f"sqlite:///{tmp_path}/log.db", signer=SIGNER, clock=clock) as store:
        store.create_schema()
        write(store, [Event(Kind.OUTCOME, f"agent:{run}", {}, run) for _ in range(1_000) for run in ("r1", "r2")])
        write(store, [Event(Kind.RUN_CLOSED, "agent:r1", {}, "r1")])
        clock.now = BETWEEN + timedelta(days=60)
        seal(store)
        assert prune(store) > 800
        lines = export_lines(store, Filter(run="r1"))
        assert verify_export(lines, [parse_key(str(KEY))]).pruned > 800
        bodies = [line for line in lines if line.startswith(b'{"type":"body"')]
        assert len(bodies) == 1
        end = as_line({"type": "end", "lines": len(lines) - 1})
        with pytest.raises(NotProved, match="entry 0: it is withheld"):
            verify_export([*(line for line in lines[:-1] if line not in bodies), end], [parse_key(str(KEY))])
    assert verify_file(tmp_path / "log.db", KEY).is_good


def as_line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def checkpoint_size(lines: Sequence[bytes]) -> int:
    return parse_checkpoint(parse_note(orjson.loads(lines[0])["checkpoint"]).text).size


def test_a_log_goes_on_after_bodies_were_dropped(store: SqlStore, tmp_path: Path) -> None:
    prune(store)
    write(store, run_events("r4", 100))
    store.close()
    assert verify_file(tmp_path / "log.db", KEY).is_good


def test_bytes_taken_away_without_an_entry_that_says_so_are_found(store: SqlStore, tmp_path: Path) -> None:
    prune(store)
    store.close()
    copy = copy_of(tmp_path / "log.db", tmp_path / "copy.db")
    with closing(sqlite3.connect(copy)) as connection, connection:
        (position,) = connection.execute("SELECT min(position) FROM audit_entries WHERE entry IS NOT NULL").fetchone()
        connection.execute("UPDATE audit_entries SET entry = NULL WHERE position = ?", (position,))
    assert verify_file(copy, KEY).text == f"NOT INTACT: entry {position}: its bytes are missing"
    with closing(sqlite3.connect(copy)) as connection, connection:
        connection.execute("INSERT INTO audit_pruned (position, stream, n) VALUES (?, 'open', 0)", (position,))
    assert "no entry accounts for it" in verify_file(copy, KEY).text


@pytest.fixture
def counted(tmp_path: Path, clock: Clock) -> Path:
    """A log whose gate counted two runs, of which retention dropped the older one; people are counted too."""
    path, people = tmp_path / "counted.db", Signer.generate("people.example")
    with SqlStore.open(f"sqlite:///{path}", signer=SIGNER, clock=clock, people=lambda: people) as store:
        store.create_schema()
        gate = CountedStore(store, Signer.generate("gate.example"), role="gate")
        _write(gate, lambda tx: [tx.record(event) for event in run_events("r1", 300)])
        clock.now = BETWEEN + timedelta(days=60)
        _write(gate, lambda tx: [tx.record(event) for event in run_events("r2", 20)])
        assert prune(store) == 512
    return path


def test_a_counted_log_is_complete_after_retention(counted: Path) -> None:
    verdict = verify_file(counted, KEY)
    assert (verdict.is_complete, verdict.pruned, verdict.findings) == (True, 512, ()), verdict.text


def test_the_auditors_page_finds_no_hole_where_retention_dropped_entries(counted: Path, clock: Clock) -> None:
    with SqlStore.open(f"sqlite:///{counted}", signer=SIGNER) as store:
        entries, rows = store.read_now(
            lambda c: (list(matching(c, Filter(), oldest_first=True)), list(rows_between(c, 0, 2**53)))
        )
    whole, blind = make_report(entries, clock.now, dropped=rows), make_report(entries, clock.now)
    for report in (whole, blind):
        report.story.finish()
    assert whole.story.findings == []
    assert "number 0 of gate:" in str(blind.story.findings[0])


def test_a_call_cannot_be_dropped_behind_what_retention_dropped(counted: Path) -> None:
    """512 entries of this gate are gone by right; two more are gone by the hand of who holds the log's key."""
    rewrite(counted, SIGNER, lambda _, event: None if event["call"] == "r2/7/0" else event)
    verdict = verify_file(counted, KEY)
    assert (verdict.is_intact, verdict.is_complete) == (True, False)
    assert "number 617 of gate:" in verdict.text
    assert "is missing, and no gap accounts for it" in verdict.text


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_pruned SET number = 617 WHERE position = 100",
        "UPDATE audit_pruned SET producer = NULL WHERE position = 100",
        "UPDATE audit_pruned SET mark = zeroblob(32) WHERE position = 100",
        "UPDATE audit_pruned SET mark = 'text', producer = x'00' WHERE position = 100",
        "UPDATE audit_pruned SET producer = x'00' WHERE position = 100",
    ],
)
def test_the_excuse_of_a_dropped_entry_cannot_be_given_to_another(counted: Path, statement: str) -> None:
    with closing(sqlite3.connect(counted)) as database, database:
        database.execute(statement)
    verdict = verify_file(counted, KEY)
    assert not verdict.is_intact
    assert "what is kept of the entries that it dropped is not what it says" in verdict.text


def test_what_was_dropped_before_numbers_were_kept_excuses_none(counted: Path) -> None:
    def as_before(_: int, event: dict[str, Any]) -> Mapping[str, Any]:
        if event["kind"] == "audit.prune":
            del event["data"]["digest"]
        return event

    rewrite(counted, SIGNER, as_before)
    assert "is not what it says" in verify_file(counted, KEY).text
    with closing(sqlite3.connect(counted)) as database, database:
        database.execute("UPDATE audit_pruned SET producer = NULL, number = NULL, mark = NULL")
    verdict = verify_file(counted, KEY)
    assert (verdict.is_intact, verdict.is_complete) == (True, False)


def test_ranges_cover_exactly_their_positions() -> None:
    assert list(ranges_of([])) == []
    assert list(ranges_of([0, 1, 2, 5, 7, 8])) == [(0, 2), (5, 5), (7, 8)]


# -- personal fields ------------------------------------------------------------------------------------------------


def test_a_personal_field_is_sealed_and_erased_for_good(tmp_path: Path) -> None:
    with SqlStore.open(f"sqlite:///{tmp_path}/log.db", signer=SIGNER) as store:
        store.create_schema()
        for who in ("person:ana", "person:ben"):
            write(store, [Event(Kind.LOGIN, who, {"address": Personal(who, f"192.0.2.7 of {who}"), "how": "password"})])
        raw = store.read_now(lambda c: raw_of(c, 0))
        assert b"192.0.2.7" not in raw
        data = parse_entry(0, raw).data
        assert store.read_now(lambda c: reveal(data, c)) == {"address": "192.0.2.7 of person:ana", "how": "password"}
        _write(store, lambda tx: erase(tx, "person:ana", by="person:root", reason="asked for it"))
        assert store.read_now(lambda c: reveal(data, c)) == {"address": ERASED, "how": "password"}
        other = parse_entry(1, store.read_now(lambda c: raw_of(c, 1))).data
        assert "192.0.2.7" in str(store.read_now(lambda c: reveal(other, c)))
        with pytest.raises(EntryNotFound, match="erased already"):
            _write(store, lambda tx: erase(tx, "person:ana", by="person:root", reason="again"))
        write(store, [Event(Kind.LOGIN, "person:ana", {"address": Personal("person:ana", "198.51.100.1")})])
        later = parse_entry(3, store.read_now(lambda c: raw_of(c, 3))).data
        assert store.read_now(lambda c: reveal(later, c)) == {"address": "198.51.100.1"}
        assert store.read_now(lambda c: reveal(data, c)) == {"address": ERASED, "how": "password"}
    assert verify_file(tmp_path / "log.db", KEY).is_good


@pytest.mark.parametrize("text", ["sealed:", "sealed:x:y", "sealed:YQ==:YQ==", "sealed:cGVyc29uOmFuYQ==:AAAA"])
def test_text_that_only_looks_sealed_stays_as_it_is(tmp_path: Path, text: str) -> None:
    with SqlStore.open(f"sqlite:///{tmp_path}/log.db", signer=SIGNER) as store:
        store.create_schema()
        write(store, [Event(Kind.LOGIN, "person:ana", {"address": Personal("person:ana", "x")})])
        assert store.read_now(lambda c: reveal(text, c)) == text


def test_a_personal_field_outside_a_transaction_is_refused() -> None:
    from ringfence_audit.entries import Preparer
    from ringfence_audit.redaction import Redactor

    with pytest.raises(InvalidEvent):
        Preparer(Redactor()).prepare(Event(Kind.LOGIN, "person:a", {"x": Personal("person:a", "y")}), OLD)


# -- keys -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path: Path) -> SqlStore:
    store = SqlStore.open(f"sqlite:///{tmp_path}/log.db", signer=Signer.load_or_create(tmp_path / "audit.key", ORIGIN))
    store.create_schema()
    return store


def key_of(store: SqlStore) -> VerifierKey:
    return VerifierKey.of_log(ORIGIN, store.signer.fresh().public_key)


def test_whoever_pinned_any_of_the_keys_verifies_the_whole_log(kept: SqlStore, tmp_path: Path) -> None:
    keys = [key_of(kept)]
    for number in range(3):
        write(kept, run_events(f"r{number}", 20))
        done = rotate(kept, tmp_path / "audit.key", by="person:ana", reason="yearly")
        assert done.old == keys[-1]
        keys.append(done.new)
    write(kept, run_events("r9", 20))
    assert len({str(key) for key in keys}) == 4
    whole = export_lines(kept, Filter(run="r9"))
    kept.close()
    for key in keys:
        assert verify_file(tmp_path / "log.db", key).is_good, verify_file(tmp_path / "log.db", key).text
        assert verify_export(whole, [parse_key(str(key))]).entries == 42
    stranger = VerifierKey.of_log(ORIGIN, Signer.generate(ORIGIN).public_key)
    assert not verify_file(tmp_path / "log.db", stranger).is_intact
    with pytest.raises(NotProved):
        verify_export(whole, [parse_key(str(stranger))])


def test_a_stolen_key_that_was_replaced_cannot_sign_another_history(tmp_path: Path) -> None:
    """It may name the successor as often as it likes: the successor must have signed what came last."""
    from sqlalchemy import insert

    from ringfence_audit.records import rotations

    stolen, new = Signer.generate(ORIGIN), Signer.generate(ORIGIN)
    keys = [VerifierKey.of_log(ORIGIN, signer.public_key) for signer in (stolen, new)]
    with SqlStore.open(f"sqlite:///{tmp_path}/log.db", signer=stolen) as store:
        store.create_schema()
        write(store, run_events("r1", 5))
        write(store, [Event(Kind.KEY, "person:eve", {"old": str(keys[0]), "new": str(keys[1])})])
        values = {"position": 12, "old": str(keys[0]), "new": str(keys[1]), "note": seal(store)}
        _write(store, lambda tx: tx.connection.execute(insert(rotations).values(**values)))
        write(store, run_events("r2", 5))
        whole = export_lines(store, Filter(run="r2"))
    assert "signed by a key that was replaced" in verify_file(tmp_path / "log.db", keys[1]).text
    with pytest.raises(NotProved, match="the checkpoint is not signed by a key that you trust"):
        verify_export(whole, [parse_key(str(keys[1]))])


def test_changes_of_key_that_are_told_again_and_again_are_refused(kept: SqlStore, tmp_path: Path) -> None:
    """Each would be held against all before it: an export could keep its reader busy for ever."""
    first = key_of(kept)
    write(kept, run_events("r1", 1))
    rotate(kept, tmp_path / "audit.key", by="person:ana", reason="yearly")
    head, change, *rest = export_lines(kept, Filter(run="r1"))
    assert b'"type":"key"' in change
    end = f'{{"type":"end","lines":{len(rest) + 3}}}\n'.encode()
    with pytest.raises(NotProved, match="does not follow the change of key before it"):
        verify_export([head, change, change, *rest[:-1], end], [parse_key(str(first))])
    assert verify_export([head, change, *rest], [parse_key(str(first))]).entries == 4


def test_another_process_goes_on_with_the_new_key(kept: SqlStore, tmp_path: Path) -> None:
    with SqlStore.open(f"sqlite:///{tmp_path}/log.db", signer=Signer.load(tmp_path / "audit.key", ORIGIN)) as other:
        first = key_of(kept)
        rotate(kept, tmp_path / "audit.key", by="person:ana", reason="yearly")
        write(other, run_events("r1", 5))
        seal(other)
        assert key_of(other) == key_of(kept) != first
    kept.close()
    assert verify_file(tmp_path / "log.db", first).is_good


def test_a_change_of_keys_that_the_old_key_did_not_sign_is_found(kept: SqlStore, tmp_path: Path) -> None:
    first = key_of(kept)
    write(kept, run_events("r1", 5))
    rotate(kept, tmp_path / "audit.key", by="person:ana", reason="yearly")
    write(kept, run_events("r2", 5))
    seal(kept)
    kept.close()
    for statement in (
        "DELETE FROM audit_rotations",
        "UPDATE audit_rotations SET note = (SELECT note FROM audit_checkpoints ORDER BY size DESC LIMIT 1)",
        "UPDATE audit_rotations SET position = 2",
        "UPDATE audit_rotations SET new = old",
    ):
        copy = copy_of(tmp_path / "log.db", tmp_path / f"{len(statement)}.db")
        with closing(sqlite3.connect(copy)) as connection, connection:
            connection.execute(statement)
        assert not verify_file(copy, first).is_intact, statement


def test_a_rotation_that_was_cut_off_is_finished_by_the_next(kept: SqlStore, tmp_path: Path) -> None:
    from ringfence_audit.keys import create_secret, new_key

    write(kept, run_events("r1", 5))
    first = key_of(kept)
    create_secret(tmp_path / "audit.key.next", new_key())
    next_key = VerifierKey.of_log(ORIGIN, Signer.load(tmp_path / "audit.key.next", ORIGIN).public_key)
    write(kept, [Event(Kind.KEY, "person:ana", {"old": str(first), "new": str(next_key), "action": "rotated"})])
    done = rotate(kept, tmp_path / "audit.key", by="person:ana", reason="again")
    assert (done.new, done.position) == (next_key, 12)
    kept.close()
    assert verify_file(tmp_path / "log.db", first).is_good


def test_a_key_file_that_vanishes_stops_nothing(kept: SqlStore, tmp_path: Path) -> None:
    (tmp_path / "audit.key").unlink()
    write(kept, run_events("r1", 2))
    seal(kept)
    with pytest.raises(KeyUnusable):
        Signer.load(tmp_path / "audit.key", ORIGIN)
    kept.close()
