"""The audit log against what it stands on: raw inserts, read + SHA-256, and the answers that auditors wait for.

Figures are ratios within one run on one machine. `RINGFENCE_BENCH_ENTRIES` sets the size of the log (default 200,000).
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

from ringfence_audit import log as log_module
from ringfence_audit.events import Event, JsonValue, Kind
from ringfence_audit.index import Index
from ringfence_audit.index_check import check_index
from ringfence_audit.keys import Signer
from ringfence_audit.merkle import Edge, Tile
from ringfence_audit.notes import VerifierKey
from ringfence_audit.query import Filter, PageRequest
from ringfence_audit.search import search
from ringfence_audit.store import SqlStore
from ringfence_audit.verify import verify_file

pytestmark = pytest.mark.bench

ENTRIES = int(os.environ.get("RINGFENCE_BENCH_ENTRIES", "200000"))
SECONDS = 2.0
PRODUCERS = 256
ROUNDS = 3
SIGNER = Signer.generate("bench.example/log")
KEY = VerifierKey.of_log("bench.example/log", SIGNER.public_key)
WORDS = ("refactor", "invoice", "rounding", "retry", "timeout", "parser", "schema", "cache", "token", "queue")


def event(number: int, chance: random.Random) -> Event:
    """A tool call as the gate writes it, about 750 bytes; one in fifty is refused, a few hold a rare word."""
    run = f"r{number // 400 % 5_000}"
    effect = "forbid" if number % 50 == 7 else "allow"
    rare = f" zebra{number // 40_000}" if number % 40_000 == 13 else ""
    words = " ".join(chance.choices(WORDS, k=6))
    data: dict[str, JsonValue] = {
        "tool": ("shell", "read_file", "edit_file")[number % 3],
        "revision": 0,
        "model_call_id": f"call_{number:012x}",
        "arguments": {"command": f"python -m pytest tests/test_{number % 997}.py -k '{words}'{rare}"},
        "accesses": [{"family": "network", "resource": f"h{number % 40}.example.org:443", "attributes": {}}],
        "sealed": {},
        "digest": f"{number:064x}",
        "sandbox": f"sb-{run}",
        "decision": {
            "effect": effect,
            "rules": [f"rule-{number % 12}"],
            "policy_version": "1" * 64,
            "reason": "inside",
        },
        "grants": [],
        "escalation": None,
        "approvers": [],
    }
    kind = Kind.INTENT if number % 2 == 0 else Kind.OUTCOME
    return Event(kind, f"agent:{run}", data, run, f"{run}/{number}/0", f"person:p{number % 60}")


def say(what: str, value: str, reach: str) -> None:
    print(f"{what:<78} {value:>12}   reach {reach}")


@dataclass(frozen=True)
class Rate:
    per_second: float
    p50_ms: float
    p99_ms: float


def raw_inserts(path: Path, bodies: list[bytes], group: int) -> float:
    """Entries a second into the same schema and settings, `group` to a commit, nothing else."""
    with SqlStore.open(f"sqlite:///{path}", signer=SIGNER) as store:
        store.create_schema()
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "wal_autocheckpoint = 0", "cache_size = -65536"):
            database.execute(f"PRAGMA {pragma}")
        position, start = 0, time.perf_counter()
        while time.perf_counter() - start < SECONDS:
            database.execute("BEGIN IMMEDIATE")
            rows = [(position + n, bodies[(position + n) % len(bodies)]) for n in range(group)]
            database.executemany("INSERT INTO audit_entries (position, entry) VALUES (?, ?)", rows)
            database.execute("COMMIT")
            position += group
        return position / (time.perf_counter() - start)


async def _appended(store: SqlStore, producers: int, events: list[Event]) -> Rate:
    times: list[float] = []
    end = time.perf_counter() + SECONDS

    async def produce(first: int) -> None:
        number = first
        while (start := time.perf_counter()) < end:
            item = events[number % len(events)]
            await store.write(lambda tx, item=item: tx.record(item))  # type: ignore[misc]  # bound per turn
            times.append(time.perf_counter() - start)
            number += producers

    began = time.perf_counter()
    await asyncio.gather(*(produce(first) for first in range(producers)))
    took = time.perf_counter() - began
    ranked = sorted(times)
    return Rate(len(times) / took, statistics.median(ranked) * 1e3, ranked[int(len(ranked) * 0.99)] * 1e3)


def append(path: Path, producers: int, events: list[Event]) -> Rate:
    with SqlStore.open(f"sqlite:///{path}", signer=SIGNER) as store:
        store.create_schema()
        return asyncio.run(_appended(store, producers, events))


class _Unhashed:
    """Stands for SHA-256 where the log is measured without hashing."""

    def __init__(self, _: bytes) -> None:
        """Takes what a hash takes."""

    def digest(self) -> bytes:
        return bytes(32)


def _count_only(edge: Edge, leaves: Sequence[bytes]) -> list[Tile]:
    """Stands for the tree where the log is measured without hashing."""
    edge.size += len(leaves)
    return []


class _Unsigned(Signer):
    def sign(self, message: bytes) -> bytes:
        return bytes(64)


def test_appending_against_raw_inserts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(1)
    events = [event(number, chance) for number in range(4_000)]
    with SqlStore.open(f"sqlite:///{tmp_path}/bytes.db", signer=SIGNER) as store:
        store.create_schema()
        _fill(store, events)
    with closing(sqlite3.connect(tmp_path / "bytes.db")) as database:
        bodies = [body for (body,) in database.execute("SELECT entry FROM audit_entries")]
    full, raw, bare, one, single = [], [], [], [], []
    for number in range(ROUNDS):
        raw.append(raw_inserts(tmp_path / f"raw{number}.db", bodies, PRODUCERS))
        full.append(append(tmp_path / f"full{number}.db", PRODUCERS, events))
        single.append(raw_inserts(tmp_path / f"single{number}.db", bodies, 1))
        one.append(append(tmp_path / f"one{number}.db", 1, events))
        with monkeypatch.context() as patched:
            patched.setattr(log_module, "sha256", _Unhashed)
            patched.setattr(Edge, "append", _count_only)
            patched.setattr(Signer, "sign", _Unsigned.sign)
            bare.append(append(tmp_path / f"bare{number}.db", PRODUCERS, events))
    at = statistics.median(rate.per_second for rate in full)
    print(f"\n{at:,.0f} entries/s from {PRODUCERS} producers, {statistics.median(raw):,.0f} raw; entries of "
          f"{statistics.mean(map(len, bodies)):.0f} bytes")  # fmt: skip
    say("256 producers, full stack with redaction / raw insert", f"{at / statistics.median(raw):.2f}", "≥0.60")
    without = statistics.median(rate.per_second for rate in bare)
    say("256 producers, with / without hashing and signing", f"{at / without:.2f}", "≥0.85")
    alone = statistics.median(rate.per_second for rate in one)
    say("1 producer / raw single commit", f"{alone / statistics.median(single):.2f}", "≥0.75")
    spread = statistics.median(rate.p99_ms / rate.p50_ms for rate in full)
    say("p99 / p50 of append at 256 producers", f"{spread:.2f}", "≤2")
    assert at > 0


def _fill(store: SqlStore, events: list[Event]) -> None:
    def work(some: list[Event]) -> Callable[..., None]:
        def record(tx: log_module.OpenTransaction) -> None:
            for item in some:
                tx.record(item)

        return record

    async def all_of() -> None:
        for at in range(0, len(events), 1_000):
            await store.write(work(events[at : at + 1_000]))

    asyncio.run(all_of())


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("big") / "log.db"
    chance = random.Random(2)
    with SqlStore.open(f"sqlite:///{path}", signer=SIGNER) as store:
        store.create_schema()
        for at in range(0, ENTRIES, 20_000):
            numbers = range(at, min(at + 20_000, ENTRIES))
            opened = [
                Event(Kind.RUN_OPENED, "person:p0", {"task": f"t{n // 400}"}, f"r{n // 400 % 5_000}")
                for n in numbers
                if n % 400 == 0
            ]
            _fill(store, [*opened, *(event(number, chance) for number in numbers)])
        asyncio.run(store.checkpoint())
    yield path


def timed(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """The median of some rounds, in seconds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def read_and_hash(path: Path) -> None:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        for (body,) in database.execute("SELECT entry FROM audit_entries ORDER BY position"):
            sha256(body).digest()


def test_verifying_against_reading_and_hashing(big: Path) -> None:
    size = big.stat().st_size
    with closing(sqlite3.connect(big)) as database:
        entry_bytes, count = database.execute("SELECT sum(length(entry)), count(*) FROM audit_entries").fetchone()
    base = timed(lambda: read_and_hash(big))
    one = timed(lambda: verify_file(big, KEY, is_evidence_only=True))
    two = timed(lambda: verify_file(big, KEY, is_evidence_only=True, processes=2))
    whole = timed(lambda: verify_file(big, KEY), 1)
    index = Index(big.with_name("index.db"))
    with SqlStore.open(f"sqlite:///{big}", signer=SIGNER) as store:
        built = timed(lambda: store.read_now(index.catch_up), 1)
        checked = timed(lambda: store.read_now(lambda c: check_index(index, c, size=count)), 1)
    index.close()
    assert verify_file(big, KEY, is_evidence_only=True).is_intact
    print(f"\n{count:,} entries: read + SHA-256 {base:.2f} s, evidence {one:.2f} s, two processes {two:.2f} s")
    print(f"whole story {whole:.2f} s, index built {built:.2f} s ({count / built:,.0f}/s), checked {checked:.2f} s")
    say("verify, evidence only / read + SHA-256 (speed)", f"{base / one:.2f}", "≥0.55")
    say("verify with index / read + SHA-256 (speed)", f"{base / (one + checked):.2f}", "≥0.30")
    say("verify, two processes / one (speed)", f"{one / two:.2f}", "≥1.8")
    say("stored bytes / entry bytes", f"{size / entry_bytes:.2f}", "≤1.20")


def test_answers_through_the_index(big: Path) -> None:
    index = Index(big.with_name("index.db"))
    with SqlStore.open(f"sqlite:///{big}", signer=SIGNER) as store:
        store.read_now(index.catch_up)
        print()
        runs = min(ENTRIES // 400, 5_000)
        questions: dict[str, Callable[[int], Filter]] = {
            "latest 100 of a task": lambda n: Filter(task=f"t{n % runs}"),
            "agent ∧ tool ∧ refused": lambda n: Filter(agent=f"agent:r{n % runs}", tool="shell", refused=True),
            "rare word": lambda n: Filter(words=f"zebra{n % max(ENTRIES // 40_000, 1)}"),
        }
        with store._database.read() as connection:  # the connection that a service keeps for its reader
            for name, ask in questions.items():
                times = []
                for number in range(0, 2_000, 10):
                    start = time.perf_counter()
                    page = search(index, connection, ask(number), PageRequest(100))
                    times.append(time.perf_counter() - start)
                    assert page.entries
                p50 = statistics.median(times) * 1e3
                say(f"{name}, {ENTRIES:,} entries, p50 ms", f"{p50:.2f}", "≤1.5 at 5M")
    index.close()
