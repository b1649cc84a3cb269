"""Publishing: what is refused leaves no row and no entry; what is published never changes and says who and why."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import orjson
import pytest
from sqlalchemy import func, select, update

from ringfence_audit import tables
from ringfence_audit.port import Transaction
from ringfence_audit.store import SqlStore
from ringfence_tools import profile_versions as versions
from ringfence_tools.errors import NotFound, ProfileInvalid, ProfileTestsFailed, VersionTaken
from ringfence_tools.profile import load_profile, pin_profile
from ringfence_tools.profile_changes import Direction
from ringfence_tools.profile_versions import Draft, Publication, profile_versions, published_in
from tests.integration.tools.conftest import Clock

WHY = "the index moved"


def text(number: int = 1, more: str = "", *, name: str = "team") -> bytes:
    head = (
        f"apiVersion: ringfence.dev/v1\nkind: Profile\nmetadata: {{name: {name}, owner: platform, version: {number}}}\n"
    )
    inside = "rules:\n  - {id: inside, allow: [shell]}\ntests:\n  - {call: 'shell pytest -q', expect: allow}\n"
    return (head + more + inside).encode()


async def drafted(store: SqlStore, source: bytes, *search: Path) -> Draft:
    return await store.read(lambda connection: versions.draft(connection, source, search=search))


async def published(
    store: SqlStore, source: bytes, *, reason: str = WHY, since: int | None = None, by: str = "person:omar"
) -> Publication:
    return await publish(store, await drafted(store, source), reason=reason, since=since, by=by)


async def publish(
    store: SqlStore, found: Draft, *, reason: str = WHY, since: int | None = None, by: str = "person:omar"
) -> Publication:
    return await store.write(lambda tx: versions.publish(tx, found, by=by, reason=reason, since=since))


async def entries(store: SqlStore) -> list[dict[str, object]]:
    query = tables.entries.select().order_by(tables.entries.c.position)
    rows = await store.read(lambda connection: connection.execute(query).all())
    return [orjson.loads(row.entry)["event"] for row in rows]


async def rows(store: SqlStore) -> int:
    counting = select(func.count()).select_from(profile_versions)
    return await store.read(lambda connection: connection.execute(counting).scalar_one())


async def test_a_profile_whose_own_test_fails_is_refused_with_that_test(store: SqlStore) -> None:
    wrong = text().replace(b"expect: allow", b"expect: forbid")
    with pytest.raises(ProfileTestsFailed, match=r"`shell pytest -q` expects forbid, and it is allow \(inside allows"):
        await published(store, wrong)
    assert (await rows(store), await entries(store)) == (0, [])


@pytest.mark.parametrize("reason", ["", "  \n", "x" * 2_001])
async def test_nothing_is_published_without_a_reason(store: SqlStore, reason: str) -> None:
    with pytest.raises(ProfileInvalid, match="say why"):
        await published(store, text(), reason=reason)
    assert (await rows(store), await entries(store)) == (0, [])


async def test_another_text_under_a_published_number_is_refused(store: SqlStore) -> None:
    await published(store, text(3))
    for number in (1, 3):
        with pytest.raises(VersionTaken, match="write version: 4"):
            await published(store, text(number, "description: another\n"))
    assert await rows(store) == 1


async def test_a_version_that_came_between_looking_and_publishing_is_told(store: SqlStore) -> None:
    await published(store, text(1))
    mine = await drafted(store, text(3))
    await published(store, text(2, "description: theirs\n"), by="person:eve")
    with pytest.raises(VersionTaken, match="v2 was published by person:eve meanwhile"):
        await publish(store, mine)
    with pytest.raises(VersionTaken, match="meanwhile"):
        await published(store, text(3), since=1)
    assert (await published(store, text(3), since=2)).version.number == 3


async def test_of_two_that_publish_one_number_at_once_one_does(store: SqlStore) -> None:
    first, second = await drafted(store, text(1)), await drafted(store, text(1, "description: another\n"))
    ended = await asyncio.gather(publish(store, first), publish(store, second), return_exceptions=True)
    assert sorted(type(one).__name__ for one in ended) == ["Publication", "VersionTaken"]
    assert (await rows(store), len(await entries(store))) == (1, 1)


async def test_a_name_that_means_something_needs_a_higher_number(store: SqlStore) -> None:
    with pytest.raises(VersionTaken, match="default v1 says otherwise already; write version: 2"):
        await published(store, text(1, name="default"))
    assert (await published(store, text(2, name="default"))).is_new
    whole = await store.read(lambda c: load_profile("default", published=published_in(c)))
    before = await store.read(lambda c: load_profile("default@1", published=published_in(c)))
    assert (whole.metadata.version, before.metadata.version) == (2, 1)
    assert len(before.rules) > len(whole.rules)


async def test_a_document_that_was_changed_in_the_database_is_not_used(store: SqlStore) -> None:
    await published(store, text())
    loose = update(profile_versions).values(document=text().decode().replace("[shell]", "[shell, network]"))
    await store.write(lambda tx: tx.connection.execute(loose))
    with pytest.raises(ProfileInvalid, match="was changed in the database"):
        await store.read(lambda c: load_profile("team", published=published_in(c)))


async def test_a_text_that_reads_otherwise_the_second_time_is_refused(store: SqlStore) -> None:
    odd = text(1, 'cedar: "// one\\u2028 two"\n')
    with pytest.raises(ProfileInvalid, match="read back"):
        await published(store, odd)


async def test_a_version_that_there_is_not_is_not_found(store: SqlStore) -> None:
    await published(store, text())
    with pytest.raises(NotFound):
        await store.read(lambda c: versions.version_of(c, "team", 2))
    with pytest.raises(NotFound):
        await store.read(lambda c: versions.version_of(c, "other", 1))


async def test_a_version_and_its_entry_say_who_when_why_and_what_changed(store: SqlStore, clock: Clock) -> None:
    await published(store, text(1), reason="first")
    clock.pass_time(60)
    made = await published(store, text(2, "network: {allow: [pypi.example]}\nteams: [payments]\n"))
    document = await store.read(lambda c: published_in(c)("team", None))
    assert document is not None
    assert made.version.digest == hashlib.sha256(document.encode()).hexdigest()
    found = await store.read(lambda c: versions.versions_of(c, "team"))
    assert found[0] == made.version
    assert [(one.number, one.published_by, one.reason) for one in found] == [
        (2, "person:omar", WHY),
        (1, "person:omar", "first"),
    ]
    assert found[0].published_at - found[1].published_at == 60_000_000
    entry = (await entries(store))[-1]
    assert (entry["kind"], entry["actor"]) == ("profile.published", "person:omar")
    data = entry["data"]
    assert isinstance(data, dict)
    assert (data["profile"], data["version"], data["digest"], data["reason"]) == ("team", 2, made.version.digest, WHY)
    assert data["before"] == {"version": 1, "digest": found[1].digest}
    assert "more: open without asking: pypi.example" in data["changes"]
    assert "less: for the teams: payments; before every team" in data["changes"]


async def test_publishing_the_same_again_does_nothing(store: SqlStore) -> None:
    first = await published(store, text())
    again = await published(store, text(), reason="once more", by="person:eve")
    assert (again.is_new, again.version) == (False, first.version)
    assert len(await entries(store)) == 1


async def test_a_run_would_be_pinned_to_the_text_that_was_published(store: SqlStore) -> None:
    source = text(1, "extends: base-restricted@3\nbudget: {run: {usd: 2.50}}\ndescription: 'für alle: ✓ \"x\"'\n")
    made = await published(store, source)
    pinned = await store.read(lambda c: pin_profile("team", published=published_in(c)))
    assert hashlib.sha256(pinned.encode()).hexdigest() == made.version.digest
    assert await store.read(lambda c: versions.source_of(c, "team", 1)) == source.decode()
    assert await store.read(lambda c: pin_profile("team@1", published=published_in(c))) == pinned


async def test_a_base_that_is_published_anew_changes_nothing_of_what_extends_it(store: SqlStore) -> None:
    await published(store, text(1, name="base"))
    await published(store, text(1, "extends: base@1\n", name="child"))
    before = await store.read(lambda c: pin_profile("child", published=published_in(c)))
    await published(store, text(2, "unmatched: forbid\n", name="base"))
    assert await store.read(lambda c: pin_profile("child", published=published_in(c))) == before
    draft = await drafted(store, text(2, "extends: base@1\n", name="child"))
    assert draft.profile.unmatched == "ask"
    assert (await drafted(store, text(2, "extends: base@2\n", name="child"))).profile.unmatched == "forbid"


async def test_a_file_of_the_name_is_what_the_first_version_is_compared_with(store: SqlStore, tmp_path: Path) -> None:
    (tmp_path / "team.yaml").write_bytes(text(4, "network: {allow: [a.example]}\n"))
    found = await drafted(store, text(5), tmp_path)
    assert (found.since, [one.direction for one in found.changes]) == (0, [Direction.LESS])
    same = await drafted(store, text(4, "network: {allow: [a.example]}\n"), tmp_path)
    assert same.changes == ()


async def test_newest_are_one_for_each_name_and_pages_go_back(store: SqlStore) -> None:
    for number in (1, 2, 3):
        await published(store, text(number, f"description: number {number}\n"))
    await published(store, text(9, name="other"))

    def look(tx: Transaction) -> list[tuple[str, int]]:
        return [(one.name, one.number) for one in versions.newest(tx.connection)]

    assert await store.write(look) == [("other", 9), ("team", 3)]
    first = await store.read(lambda c: versions.versions_of(c, "team", limit=2))
    second = await store.read(lambda c: versions.versions_of(c, "team", below=2, limit=2))
    assert [[one.number for one in page] for page in (first, second)] == [[3, 2], [1]]
