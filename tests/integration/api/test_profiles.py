"""Profiles over the API and in the console: who may publish what, who sees what, and what is shown of it."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from ringfence.auth import people
from ringfence.auth.identity import Membership
from ringfence.auth.roles import EVERY_TEAM, Role
from ringfence.demo.scenes import PROFILE
from ringfence.errors import Refused
from ringfence.profile_choice import chosen_document
from ringfence_audit.port import Transaction
from ringfence_audit.query import Filter, PageRequest, query
from tests.integration.api.world import World

NEXT = PROFILE.replace("version: 7", "version: 8")
WHY = "the index moved"


def text(number: int = 1, more: str = "", *, name: str = "team") -> str:
    head = (
        f"apiVersion: ringfence.dev/v1\nkind: Profile\nmetadata: {{name: {name}, owner: platform, version: {number}}}\n"
    )
    return f"{head}{more}tests:\n  - {{call: 'shell pytest -q', expect: ask}}\n"


async def holder(world: World, name: str, *places: tuple[str, Role]) -> httpx.AsyncClient:
    def make(tx: Transaction) -> None:
        people.create_person(tx, name, by="system:test")
        people.set_places(
            tx, name, by="system:test", roles=[Membership(team, role) for team, role in places], groups=[]
        )

    await world.store.write(make)
    return await world.person(name)


async def publish(client: httpx.AsyncClient, source: str, **more: object) -> httpx.Response:
    return await client.post("/api/v1/profiles", json={"text": source, "reason": WHY, **more})


async def newest(world: World, name: str = "python-service") -> int:
    omar = await world.person("omar")
    return int((await omar.get(f"/api/v1/profiles/{name}")).json()["version"])


@pytest.mark.parametrize(
    ("source", "code", "says"),
    [
        (NEXT.replace("GET https://example.org/\", expect: ask", "GET https://example.org/\", expect: allow"),
         "profile_tests_failed", "test `network GET https://example.org/` expects allow, and it is ask"),
        (PROFILE.replace("usd: 4", "usd: 5"), "version_taken", "write version: 8"),
        ("kind: Profile\n", "profile_invalid", "apiVersion"),
        (NEXT + "colour: red\n", "profile_invalid", "colour: no such field"),
        (NEXT + "extends: /etc/hosts.yaml\n", "profile_invalid", "name a profile and its version"),
        (NEXT + "extends: hosts.yaml\n", "profile_invalid", "name a profile and its version"),
        (NEXT + 'cedar: "permit"\n', "policy_invalid", "cannot be read"),
    ],
)  # fmt: skip
async def test_a_text_that_cannot_hold_is_refused_and_published_nowhere(
    world: World, source: str, code: str, says: str
) -> None:
    answer = await publish(await world.person("omar"), source)
    assert (answer.status_code, answer.json()["code"]) == (409, code), answer.text
    assert says in answer.json()["detail"]
    assert await newest(world) == 7


async def test_who_publishes_for_one_team_takes_no_name_from_another(world: World) -> None:
    theirs = await holder(world, "pat", ("billing", Role.PLATFORM))
    for source in (
        text(),  # for everybody
        text(1, "teams: [shop]\n"),
        text(1, "teams: [billing, shop]\n"),
        NEXT + "teams: [billing]\n",  # served everybody so far
        text(2, "teams: [billing]\n", name="default"),
    ):
        assert (await publish(theirs, source)).status_code in (403, 404), source
    assert (await publish(theirs, text(1, "teams: [billing]\n"))).status_code == 201
    other = await holder(world, "sam", ("shop", Role.PLATFORM))
    taken = await publish(other, text(2, "teams: [shop]\n"))
    assert taken.status_code == 404
    assert await newest(world, "team") == 1


@pytest.mark.parametrize(
    "more",
    [
        "sandbox: {mounts: [{source: /srv, target: /srv}]}\n",
        "sandbox: {venv: /srv/venv}\n",
        "sandbox: {reduced: true}\n",
        "network: {private: [db.example.org]}\n",
        "network: {credentials: [{host: a.example, from: 'env:TOKEN'}]}\n",
        "model: {name: m, replay: /srv/transcript.jsonl}\n",
        "model: {name: m, endpoint: 'https://llm.example.org/v1'}\n",
    ],
)
async def test_what_reaches_past_the_sandbox_is_not_for_one_teams_platform_role(world: World, more: str) -> None:
    source = text(1, f"teams: [billing]\n{more}")
    theirs = await holder(world, "pat", ("billing", Role.PLATFORM))
    assert (await publish(theirs, source)).status_code == 403
    assert (await publish(await world.person("omar"), source)).status_code == 201


async def test_a_profile_of_other_teams_is_nowhere_to_be_found(world: World) -> None:
    omar, dana = await world.person("omar"), await world.person("dana")
    assert (await publish(omar, text(1, "teams: [billing]\n", name="ledger"))).status_code == 201
    assert (await publish(omar, NEXT + "extends: ledger@1\n")).status_code == 201
    for path in ("/api/v1/profiles", "/profiles", "/board/new"):
        assert "ledger" not in (await dana.get(path)).text, path
        assert "ledger" in (await (await world.person("ana")).get(path)).text, path
    for path in ("", "/versions", "/versions/1", "/changes?other=default", "/uses"):
        assert (await dana.get(f"/api/v1/profiles/ledger{path}")).status_code == 404, path
    assert (await dana.post("/api/v1/profiles/ledger/try", json={"call": "shell ls"})).status_code == 404
    assert (await dana.get("/api/v1/profiles/default/changes?other=ledger")).status_code == 404
    assert (await dana.get("/profiles/ledger")).status_code == 404
    assert (await dana.get("/profiles/default?other=ledger")).status_code == 404
    task = {"text": "x", "repository": "https://git.example.org/a/b", "team": "shop"}
    seen, absent = [await dana.post("/api/v1/tasks", json={**task, "profile": one}) for one in ("ledger", "nothing")]
    assert (seen.status_code, seen.json()["detail"]) == (404, absent.json()["detail"])


async def test_a_version_that_was_for_other_teams_stays_theirs(world: World) -> None:
    omar, dana = await world.person("omar"), await world.person("dana")
    await publish(omar, text(1, "teams: [billing]\n"))
    await publish(omar, text(2))
    listed = (await dana.get("/api/v1/profiles/team/versions")).json()["items"]
    assert [one["number"] for one in listed] == [2]
    assert (await dana.get("/api/v1/profiles/team/versions/1")).status_code == 404
    assert (await dana.get("/api/v1/profiles/team/changes?since=1")).status_code == 404


async def test_a_profile_file_that_names_teams_is_listed_for_them_alone(world: World) -> None:
    folder = world.house.settings.config / "profiles"
    (folder / "ledger.yaml").write_text(text(1, "teams: [billing]\n", name="ledger"))
    (folder / "broken.yaml").write_text("nothing")
    for who, names in (("dana", set()), ("ana", {"ledger"}), ("omar", {"ledger", "broken"})):
        found = (await (await world.person(who)).get("/api/v1/profiles")).json()["items"]
        assert {one["name"] for one in found} & {"ledger", "broken"} == names, who


async def test_a_task_begins_with_no_version_that_was_replaced(world: World) -> None:
    search = world.house.settings.profile_search
    with pytest.raises(Refused, match="is at v7, and new runs begin with that"):
        await world.store.read(lambda c: chosen_document(c, "python-service@6", search))
    named = await world.store.read(lambda c: chosen_document(c, "python-service", search))
    numbered = await world.store.read(lambda c: chosen_document(c, "python-service@7", search))
    assert '"version": 7' in named
    assert named == numbered


async def test_a_version_that_came_between_is_told_and_not_overtaken(world: World) -> None:
    omar = await world.person("omar")
    assert (await publish(omar, NEXT, since=6)).json()["code"] == "version_taken"
    assert (await publish(omar, NEXT, since=7)).status_code == 201


async def test_a_key_makes_one_version_and_the_same_answer(world: World) -> None:
    omar, key = await world.person("omar"), {"idempotency-key": "publish-1"}
    body = {"text": NEXT, "reason": WHY}
    first = await omar.post("/api/v1/profiles", json=body, headers=key)
    await publish(omar, PROFILE.replace("version: 7", "version: 9"))
    again = await omar.post("/api/v1/profiles", json=body, headers=key)
    assert (first.status_code, again.status_code) == (201, 201), again.text
    assert first.json() == again.json()


async def test_publishing_is_looked_at_first_and_then_counts(world: World) -> None:
    omar = await world.person("omar")
    source = NEXT.replace('hosts: ["*.prod.example.org"]', 'hosts: ["db.prod.example.org"]')
    checked = (await omar.post("/api/v1/profiles/check", json={"text": source})).json()
    assert (checked["since"], checked["version"]) == (7, 8)
    assert all(one["is_passed"] for one in checked["tests"])
    assert {one["direction"] for one in checked["changes"]} == {"more", "less"}
    assert await newest(world) == 7
    made = await publish(omar, source)
    assert made.status_code == 201, made.text
    assert made.json()["version"]["digest"] == checked["digest"]
    assert (await publish(omar, source)).status_code == 200
    page = await world.store.read(lambda c: query(c, Filter(kind="profile.published"), PageRequest(5)))
    assert (page.entries[0].actor, page.entries[0].data["reason"]) == ("person:omar", WHY)
    assert len(page.entries) == 3
    ana = await world.person("ana")
    shown = (await ana.get("/api/v1/profiles/python-service")).json()
    assert (shown["version"], shown["published"]["published_by"]) == (8, "person:omar")
    changes = (await ana.get("/api/v1/profiles/python-service/changes?since=7")).json()["changes"]
    assert changes == checked["changes"]
    tried = {"call": "network GET https://x.prod.example.org/"}
    now, then = [
        (await ana.post("/api/v1/profiles/python-service/try", json={**tried, "version": one})).json()["effect"]
        for one in (8, 7)
    ]
    assert (now, then) == ("escalate", "forbid")


async def test_who_uses_it_counts_the_live_runs_of_ones_own_teams(world: World) -> None:
    omar, dana = await world.person("omar"), await world.person("dana")
    await publish(omar, NEXT)
    every = (await omar.get("/api/v1/profiles/python-service/uses")).json()
    mine = (await dana.get("/api/v1/profiles/python-service/uses")).json()
    assert {one["team"] for one in every["teams"]} == {"billing", "shop"}
    assert {one["team"] for one in mine["teams"]} == {one["team"] for one in mine["newest"]} == {"shop"}
    assert {(one["version"], one["is_published"]) for one in every["teams"]} == {("7", True)}
    live = (await omar.get("/api/v1/tasks?state=parked&state=running&state=queued&limit=200")).json()["items"]
    assert sum(one["runs"] for one in every["teams"]) == len(live)


def hidden(page: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found is not None, page
    return found[1]


async def test_the_console_shows_what_changes_before_it_publishes(world: World) -> None:
    omar = await world.person("omar")
    assert (await (await world.person("ana")).get("/publish")).status_code == 403
    assert (await (await world.person("ana")).post("/publish", data={"text": NEXT})).status_code == 403
    form = await omar.get("/publish?name=python-service")
    assert "version: 7" in form.text
    looked = await omar.post(
        "/publish", data={"action": "check", "text": NEXT.replace("usd: 4", "usd: 9"), "reason": WHY}
    )
    assert "money for a run: $9, before $4" in looked.text
    assert "tests pass" in looked.text
    given = {
        "action": "publish",
        "reason": WHY,
        "since": hidden(looked.text, "since"),
        "seen": hidden(looked.text, "seen"),
    }
    other = await omar.post("/publish", data={**given, "text": NEXT.replace("usd: 4", "usd: 999")})
    assert other.status_code == 409
    assert "another than you looked at" in other.text
    assert "$999" in other.text
    nothing = await omar.post("/publish", data={**given, "text": NEXT.replace("usd: 4", "usd: 9"), "reason": ""})
    assert (nothing.status_code, "say why" in nothing.text) == (409, True)
    assert "usd: 9" in nothing.text
    assert await newest(world) == 7
    done = await omar.post("/publish", data={**given, "text": NEXT.replace("usd: 4", "usd: 9").replace("\n", "\r\n")})
    assert (done.status_code, done.headers["location"]) == (303, "/profiles/python-service")
    page = (await omar.get("/profiles/python-service")).text
    assert WHY in page
    assert "money for a run: $9, before $4" in page
    assert "A run keeps the version that it started with" in page
    earlier = (await omar.get("/profiles/python-service?version=6")).text
    assert "This is an earlier version" in earlier


async def test_a_failing_test_stands_on_the_form_with_the_text_kept(world: World) -> None:
    omar = await world.person("omar")
    wrong = NEXT.replace('"shell pytest -q", expect: allow', '"shell pytest -q", expect: forbid')
    answer = await omar.post("/publish", data={"action": "check", "text": wrong})
    assert "1 of its 4 tests fail" in answer.text
    assert "expects forbid, and it is allow" in answer.text
    assert 'value="publish"' not in answer.text
    assert "python-service, owner: platform, version: 8" in answer.text


async def test_hostile_words_in_a_profile_are_shown_and_not_obeyed(world: World) -> None:
    omar = await world.person("omar")
    evil = "<script>alert(1)</script>{{7*7}}=1+1"
    source = text(1, f"description: '{evil}'\n")
    made = await omar.post("/api/v1/profiles", json={"text": source, "reason": f"{evil}\u202e\u200b"})
    assert made.status_code == 201, made.text
    for path in ("/profiles", "/profiles/team", "/publish?name=team"):
        page = (await omar.get(path)).text
        assert "<script>alert(1)" not in page, path
        assert "\u202e" not in page, path


async def test_a_name_that_was_published_counts_before_a_file(world: World, tmp_path: Path) -> None:
    folder = world.house.settings.config / "profiles"
    (folder / "python-service.yaml").write_text(PROFILE.replace("version: 7", "version: 99"))
    omar = await world.person("omar")
    (line,) = [one for one in (await omar.get("/api/v1/profiles")).json()["items"] if one["name"] == "python-service"]
    assert (line["place"], line["version"], line["passed_over"]) == ("published", 7, "file")
    assert "A file of this name does not count" in (await omar.get("/profiles")).text
    assert (await omar.get("/api/v1/profiles/python-service/versions/99")).status_code == 404


async def test_a_role_in_every_team_publishes_for_any(world: World) -> None:
    both = await holder(world, "kim", ("billing", Role.PLATFORM), ("shop", Role.PLATFORM))
    assert (await publish(both, text(1, "teams: [billing, shop]\n"))).status_code == 201
    whole = await holder(world, "lee", (EVERY_TEAM, Role.PLATFORM))
    assert (await publish(whole, text(2))).status_code == 201
