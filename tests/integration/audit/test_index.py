"""The index answers as reading every entry would, can be built anew, and is held against the evidence."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ringfence_audit.events import Event, JsonValue, Kind
from ringfence_audit.index import Index, IndexDamaged
from ringfence_audit.index_check import check_index
from ringfence_audit.keys import Signer
from ringfence_audit.query import Filter, PageRequest, query
from ringfence_audit.search import QuestionTooWide, matching, search
from ringfence_audit.store import SqlStore
from tests.integration.audit.logs import ORIGIN, open_log, run_events, write

SIGNER = Signer.generate(ORIGIN)
START = datetime(2026, 11, 24, 10, tzinfo=UTC)
WORDS = ("alpha", "Beta", "gamma-ray", "deploy_key", "naïve", "x1", "über", "日本")


def varied(count: int, seed: int = 7) -> list[Event]:
    """Entries of many shapes."""
    chance = random.Random(seed)
    events: list[Event] = []
    for number in range(count):
        run = f"r{chance.randrange(6)}"
        data: dict[str, JsonValue] = {
            "text": " ".join(chance.choices(WORDS, k=3)),
            "tool": chance.choice(("shell", "read")),
        }
        kind = chance.choice((Kind.INTENT, Kind.OUTCOME, Kind.VOTE, Kind.EGRESS_REFUSED, Kind.GRANT_USED))
        if chance.random() < 0.3:
            data["status"] = chance.choice(("ok", "failed", "forbidden", "denied"))
        if chance.random() < 0.3:
            data["host"] = f"h{chance.randrange(4)}.example.{chance.choice(('org', 'com'))}"
        if chance.random() < 0.3:
            data["decision"] = {
                "effect": chance.choice(("allow", "escalate", "forbid")),
                "rules": ["r-a", f"r-{number % 3}"],
            }
        if chance.random() < 0.2:
            data |= {"grants": [f"g-{number % 4}", "g-x"], "approvers": ["ben"], "digest": f"{number % 9:064x}"}
        actor = chance.choice((f"agent:{run}", "person:ben", "system:x"))
        events.append(Event(kind, actor, data, run, f"{run}/{number % 5}/0", "person:ana"))
    for number in range(6):
        opened: dict[str, JsonValue] = {"task": f"t{number % 2}", "profile": {"name": "default"}}
        events.insert(number, Event(Kind.RUN_OPENED, "person:ana", opened, f"r{number}", "", "person:ana"))
    return events


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqlStore]:
    moments = iter(START + timedelta(seconds=n) for n in range(100_000))
    path = tmp_path_factory.mktemp("log") / "log.db"
    with SqlStore.open(f"sqlite:///{path}", signer=SIGNER, clock=lambda: next(moments)) as store:
        store.create_schema()
        events = varied(600)
        for at in range(0, len(events), 100):
            write(store, events[at : at + 100])
        yield store


@pytest.fixture
def index(store: SqlStore, tmp_path: Path) -> Iterator[Index]:
    index = Index(tmp_path / "index.db")
    assert store.read_now(index.catch_up) == 606
    yield index
    index.close()


FILTERS = [
    Filter(),
    Filter(run="r1"),
    Filter(task="t0"),
    Filter(task="t1", refused=True),
    Filter(task="t9"),
    Filter(agent="agent:r2"),
    Filter(agent="agent:r2", tool="shell", refused=True),
    Filter(person="person:ana"),
    Filter(person="person:ben", kind="escalation.*"),
    Filter(actor="system:x"),
    Filter(tool="read", decision="forbid"),
    Filter(outcome="denied"),
    Filter(refused=True),
    Filter(host="h1.example.org"),
    Filter(host="*.example.com"),
    Filter(host="h?.example.com"),
    Filter(host="*", rule="r-1", tool="shell"),
    Filter(rule="r-a"),
    Filter(grant="g-2"),
    Filter(grant="g-x", run="r3"),
    Filter(approver="ben"),
    Filter(call="r1/2/0"),
    Filter(digest=f"{3:064x}"),
    Filter(profile="default"),
    Filter(words="alpha"),
    Filter(words="GAMMA ray"),
    Filter(words="naïve ÜBER", tool="read"),
    Filter(words="日本"),
    Filter(words='" OR ""'),
    Filter(words="deploy_key NEAR alpha"),
    Filter(words="absent"),
    Filter(since=START + timedelta(seconds=2), until=START + timedelta(seconds=4)),
    Filter(run="r1", since=START + timedelta(seconds=3), tool="shell"),
]


@pytest.mark.parametrize("wanted", FILTERS, ids=lambda wanted: str(wanted.to_json()))
@pytest.mark.parametrize("oldest_first", [False, True])
def test_the_index_answers_as_reading_every_entry_would(
    store: SqlStore, index: Index, wanted: Filter, oldest_first: bool
) -> None:
    seen: list[int] = []
    expected: list[int] = []
    for found, ask in ((seen, search), (expected, None)):
        after: int | None = None
        while True:
            request = PageRequest(37, after, oldest_first=oldest_first)
            page = store.read_now(
                lambda c, r=request, a=ask: query(c, wanted, r) if a is None else a(index, c, wanted, r)  # type: ignore[misc]  # bound per turn
            )
            found += [entry.position for entry in page.entries]
            after = page.next
            if after is None:
                break
    assert seen == expected


def test_every_match_is_walked_for_an_export(store: SqlStore, index: Index) -> None:
    wanted = Filter(tool="shell")
    walked = store.read_now(lambda c: [entry.position for entry in matching(index, c, wanted)])
    assert walked == sorted(walked)
    assert len(walked) == store.read_now(lambda c: len(query(c, wanted, PageRequest(1_000)).entries))


def test_a_pattern_that_stands_for_too_many_words_is_refused(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.db")
    with open_log(tmp_path / "log.db", SIGNER) as store:
        write(store, [Event(Kind.EGRESS_OPENED, "a", {"host": f"h{n}.example.org"}) for n in range(600)])
        store.read_now(index.catch_up)
        with pytest.raises(QuestionTooWide):
            store.read_now(lambda c: search(index, c, Filter(host="*.example.org")))
    index.close()


def test_what_came_since_is_indexed_and_what_is_dropped_is_built_anew(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.db")
    with open_log(tmp_path / "log.db", SIGNER) as store:
        write(store, run_events("r1", 5))
        assert store.read_now(index.catch_up) == 12
        assert store.read_now(index.catch_up) == 0
        write(store, run_events("r2", 5, task="t2"))
        assert store.read_now(lambda c: index.catch_up(c, limit=5)) == 5
        assert store.read_now(index.catch_up) == 7
        index.close()
        index = Index(tmp_path / "index.db")
        write(store, [Event(Kind.OUTCOME, "agent:r2", {"status": "ok"}, "r2")])
        assert store.read_now(index.catch_up) == 1
        assert len(store.read_now(lambda c: search(index, c, Filter(task="t2"))).entries) == 13
        index.clear()
        assert store.read_now(index.catch_up) == 25
        assert store.read_now(lambda c: check_index(index, c, size=25)) is None
    index.close()


def test_an_index_of_another_log_is_built_anew(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.db")
    for number, calls in enumerate((6, 4)):
        with open_log(tmp_path / f"log{number}.db", SIGNER) as store:
            write(store, run_events(f"r{number}", calls))
            assert store.read_now(index.catch_up) == 2 * calls + 2
            assert store.read_now(lambda c: check_index(index, c, size=2 * calls + 2)) is None  # noqa: B023  # called at once
    index.close()


def test_large_values_are_searched_too(tmp_path: Path) -> None:
    with open_log(tmp_path / "log.db", SIGNER) as store:
        text = "filler words here " * 400 + "needle"
        write(store, [Event(Kind.OUTCOME, "agent:r1", {"text": text, "status": "ok"}, "r1", "r1/0/0")])

        def fetch(digest: str) -> bytes | None:
            return store.read_now(lambda c: store.blobs.get(digest, c))

        index = Index(tmp_path / "index.db", fetch=fetch)
        store.read_now(index.catch_up)
        assert len(store.read_now(lambda c: search(index, c, Filter(words="needle filler"))).entries) == 1
        index.close()


def test_a_file_that_is_no_index_is_said_to_be_derived(tmp_path: Path) -> None:
    (tmp_path / "index.db").write_bytes(b"not a database" * 1_000)
    with pytest.raises(IndexDamaged, match="remove it, it is derived"):
        Index(tmp_path / "index.db")


@pytest.mark.parametrize(
    ("statement", "position"),
    [
        ("UPDATE entry SET tool = (SELECT id FROM word WHERE dimension = 'run' LIMIT 1) WHERE position = 70", 70),
        ("UPDATE entry SET refused = 1 - refused WHERE position = 71", 71),
        ("UPDATE entry SET time = time + 1 WHERE position = 72", 72),
        ("UPDATE entry SET task = NULL WHERE position = 73", 73),
        ("DELETE FROM entry WHERE position = 74", 74),
        ("DELETE FROM entry WHERE position >= 600", 600),
        ("INSERT INTO entry (position, time, refused) VALUES (606, 1, 0)", 606),
        ("DELETE FROM posting WHERE position = (SELECT min(position) FROM posting)", 0),
        ("UPDATE posting SET position = 9999 WHERE position = (SELECT min(position) FROM posting)", 0),
        ("INSERT INTO posting VALUES (1, 9999)", 606),
        ("UPDATE word SET word = 'other' WHERE dimension = 'tool' AND word = 'shell'", None),
        ("UPDATE meta SET value = 700 WHERE name = 'next'", None),
    ],
)
def test_a_changed_row_of_the_index_is_found(
    store: SqlStore, index: Index, statement: str, position: int | None
) -> None:
    assert store.read_now(lambda c: check_index(index, c, size=606)) is None
    index.raw.execute(statement)
    fault = store.read_now(lambda c: check_index(index, c, size=606))
    assert fault is not None
    assert position is None or fault.position == position
