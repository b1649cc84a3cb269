from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from ringfence_audit.errors import EntryNotFound, InvalidExport
from ringfence_audit.events import Event, JsonValue, Kind
from ringfence_audit.facts import parse_entry
from ringfence_audit.keys import Signer
from ringfence_audit.merkle import leaf_hash, root_from_inclusion
from ringfence_audit.notes import VerifierKey, open_checkpoint
from ringfence_audit.port import Transaction
from ringfence_audit.query import Filter, PageRequest, query, show, show_call, story
from ringfence_audit.store import SqlStore


def _call(number: int) -> Event:
    run = f"r{number % 2}"
    accesses: list[JsonValue] = [{"family": "network", "resource": f"h{number % 3}.example.org:443", "attributes": {}}]
    effect = "forbid" if number % 5 == 0 else "allow"
    decision: JsonValue = {"effect": effect, "rules": [f"rule-{number % 4}"], "policy_version": "1"}
    data: dict[str, JsonValue] = {"tool": "shell", "arguments": {"command": f"pytest case{number}"}}
    return Event(
        Kind.INTENT,
        f"agent:{run}",
        {**data, "accesses": accesses, "decision": decision},
        run=run,
        call=f"{run}/{number}/0",
        on_behalf_of="person:ana",
    )


@pytest.fixture
def store(database_url: str) -> Iterator[SqlStore]:
    with SqlStore.open(database_url, signer=Signer.generate("test.example/log")) as store:
        store.create_schema()

        def fill(tx: Transaction) -> None:
            for number in range(600):
                tx.record(_call(number))

        asyncio.run(store.write(fill))
        yield store


def test_what_is_not_in_the_log_is_said_to_be_missing(store: SqlStore) -> None:
    with pytest.raises(EntryNotFound):
        store.read_now(lambda connection: show(connection, 600))
    with pytest.raises(EntryNotFound):
        store.read_now(lambda connection: show_call(connection, "r9/0/0"))


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"null", b'{"event":1,"stream":2}', b'{"event":{},"stream":{}}'])
def test_bytes_that_are_no_entry_are_refused(raw: bytes) -> None:
    with pytest.raises(InvalidExport):
        parse_entry(0, raw)


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (Filter(run="r1", refused=True), [n for n in range(600) if n % 2 and n % 5 == 0]),
        (Filter(host="h2.*", rule="rule-1"), [n for n in range(600) if n % 3 == 2 and n % 4 == 1]),
        (Filter(words="CASE17 pytest"), [17]),
        (Filter(person="person:bob"), []),
        (Filter(host="h?.example.org"), []),
    ],
    ids=["refused", "globs", "words", "nobody", "only the star is special"],
)
def test_every_set_field_must_hold(store: SqlStore, wanted: Filter, numbers: list[int]) -> None:
    page = store.read_now(lambda connection: query(connection, wanted, PageRequest(1_000, oldest_first=True)))
    assert [entry.position for entry in page.entries] == numbers


def test_pages_cover_the_answer_once_and_end(store: SqlStore) -> None:
    seen: list[int] = []
    after: int | None = None
    for _ in range(10):
        request = PageRequest(70, after)
        page = store.read_now(lambda connection, request=request: query(connection, Filter(run="r0"), request))  # type: ignore[misc]  # a default argument binds the request
        seen += [entry.position for entry in page.entries]
        after = page.next
        if after is None:
            break
    assert after is None
    assert seen == list(range(598, -1, -2))


def test_a_runs_story_is_told_in_order(store: SqlStore) -> None:
    told = store.read_now(lambda connection: list(story(connection, "r1")))
    assert [entry.n for entry in told] == list(range(300))


async def test_an_entry_is_shown_with_a_proof_that_leads_to_a_signed_root(store: SqlStore) -> None:
    await store.checkpoint()
    key = VerifierKey.of_log(store.signer.origin, store.signer.public_key)
    for position in (0, 255, 256, 599):
        view = await store.read(lambda connection, position=position: show(connection, position))  # type: ignore[misc]  # as above
        assert view.note is not None
        root = root_from_inclusion(leaf_hash(view.raw), position, view.size, proof=view.proof)
        assert root == view.root == open_checkpoint(view.note, key).root
