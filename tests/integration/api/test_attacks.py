"""What someone with a little access tries in order to have more, or to hold others up."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from ringfence.api.feed import Interest
from ringfence.api.streams import events
from ringfence.auth import attempts, people, tokens
from ringfence.auth.errors import AuthError, LinkInvalid
from ringfence.auth.identity import GroupPlace, Membership, Reach
from ringfence.auth.roles import Permission, Role
from ringfence.auth.schema import tokens as tokens_table
from ringfence.notify.routes import Route
from ringfence_audit.events import Event, Kind
from ringfence_audit.port import Transaction
from tests.integration.api.test_feed import running
from tests.integration.api.world import HARMLESS, World

WRONG = {"authorization": f"Bearer rf_{'a' * 12}_{'b' * 43}"}


async def test_wrong_tokens_hold_up_no_one_who_has_a_right_one(world: World) -> None:
    stranger, program = world.stranger(), await world.program("ben")
    assert [(await stranger.get("/api/v1/me", headers=WRONG)).status_code for _ in range(6)] == [401] * 6
    assert (await program.get("/api/v1/me")).status_code == 200


async def test_wrong_tokens_slow_no_log_in(world: World) -> None:
    def wrong(tx: Transaction) -> None:
        for _ in range(30):
            attempts.failed(tx, None, "127.0.0.1")

    await world.store.write(wrong)
    answer = await world.stranger().post("/api/v1/login", json={"name": "ben", "password": "x" * 12, "code": "123456"})
    assert answer.status_code == 401, answer.text


async def test_a_token_that_may_only_read_decides_nothing_on_its_owners_own_card(world: World) -> None:
    card = await world.card(HARMLESS)
    owner = card.requester
    reading = await world.program(owner, Permission.READ)
    for verdict in ("approve", "edit", "deny"):
        given = {"verdict": verdict, "digest": card.digest, "arguments": card.arguments, "guidance": "no"}
        answer = await reading.post(f"/api/v1/escalations/{card.id}/votes", json=given)
        assert (answer.status_code, answer.json()["code"]) == (403, "denied"), (verdict, answer.text)


async def test_a_group_without_the_reviewers_role_approves_nothing(world: World) -> None:
    card = await world.card(HARMLESS)
    places = [Membership("billing", Role.MEMBER)]
    groups = [GroupPlace("billing", name) for name in (*card.terms.any_of, *card.terms.all_of)]
    await world.store.write(
        lambda tx: people.set_places(tx, card.requester, by="system:test", roles=places, groups=groups)
    )
    owner = await world.person(card.requester)
    given = {"verdict": "approve", "digest": card.digest, "findings": []}
    answer = await owner.post(f"/api/v1/escalations/{card.id}/votes", json=given)
    assert (answer.status_code, answer.json()["code"]) == (403, "denied"), answer.text
    page = await owner.post(f"/inbox/{card.id}/vote", data={"verdict": "once", "digest": card.digest})
    assert page.status_code == 403
    denied = await owner.post(f"/api/v1/escalations/{card.id}/votes", json={"verdict": "deny"})
    assert denied.status_code == 201, denied.text


async def test_a_token_that_may_decide_stops_no_run(world: World) -> None:
    program = await world.program("ben", Permission.READ, Permission.DECIDE)
    given = {"verdict": "deny", "stop": True}
    answer = await program.post(f"/api/v1/escalations/{HARMLESS}/votes", json=given)
    assert (answer.status_code, answer.json()["code"]) == (403, "denied")


async def test_the_cursor_of_a_list_names_no_team_that_one_may_not_know_of(world: World) -> None:
    dana = await world.person("dana")
    answer = (await dana.get("/api/v1/teams", params={"limit": 1})).json()
    assert [one["name"] for one in answer["items"]] == ["shop"]
    assert answer["next"] in (None, "shop")


async def test_a_busy_stream_ends_with_its_session(world: World) -> None:
    async def gone() -> bool:
        return False

    async with running(world) as feed:
        run = (await world.card(HARMLESS)).key.run
        body = events(feed, Interest(Reach(frozenset({"billing"}))), after=None, still_may=gone, check_s=0)
        await anext(body)
        await world.store.write(lambda tx: tx.record(Event(Kind.VOTE, "person:ben", {"escalation": HARMLESS}, run)))
        assert [event async for event in body if b"event: entry" in event] == []


async def test_logging_out_with_a_token_ends_it(world: World) -> None:
    program = await world.program("ben")
    assert (await program.post("/api/v1/logout")).status_code == 200
    assert (await program.get("/api/v1/me")).status_code == 401


async def test_a_long_chain_of_tokens_keeps_none_of_them_from_being_revoked(world: World) -> None:
    def chain(tx: Transaction) -> list[str]:
        made = [""]
        for _ in range(1_200):
            text = tokens.create(
                tx, "ben", by="system:test", scopes=[Permission.READ], label="x", days=1, maker=made[-1]
            )
            made.append(text.id)
        return made[1:]

    made = await world.store.write(chain)
    await world.store.write(lambda tx: tokens.revoke(tx, made[0], by="system:test"))
    last = await world.store.read(lambda connection: tokens.get(connection, made[-1]))
    assert last is not None
    assert not last.is_live(world.house.now_us())


async def test_a_token_makes_none_that_outlives_it(world: World) -> None:
    program = await world.program("ben")
    made = await program.post("/api/v1/tokens", json={"scopes": ["team.read"], "days": 366})
    assert made.status_code == 201, made.text
    child = made.json()
    rows = await world.store.read(lambda c: c.execute(select(tokens_table.c.id, tokens_table.c.expires_at)).all())
    ends = {row.id: row.expires_at for row in rows}
    parent = next(name for name in ends if name != child["id"])
    assert ends[child["id"]] <= ends[parent]
    await program.delete(f"/api/v1/tokens/{parent}")
    answer = await world.stranger().get("/api/v1/me", headers={"authorization": f"Bearer {child['token']}"})
    assert answer.status_code == 401


async def test_a_closed_accounts_link_opens_nothing(world: World) -> None:
    seal = world.house.seal
    link = await world.store.write(lambda tx: people.invite(tx, "ana", by="system:test", seal=seal))
    await world.store.write(lambda tx: people.disable_person(tx, "ana", by="system:test"))
    with pytest.raises(LinkInvalid):
        await world.store.read(lambda c: people.setup_link(c, link, world.house.now_us()))
    with pytest.raises(AuthError):
        await world.store.write(lambda tx: people.invite(tx, "ana", by="system:test", seal=seal))


async def test_what_is_typed_as_a_name_is_kept_only_where_it_is_one(world: World) -> None:
    given = {"name": "my-secret-pass-word", "password": "x" * 12, "code": "123456"}
    await world.stranger().post("/api/v1/login", json=given)
    iris = await world.person("iris")
    answer = await iris.get("/api/v1/entries", params={"kind": "person.login", "limit": 5})
    assert "login.refused" in answer.text
    assert "my-secret-pass-word" not in answer.text


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1.evil.example/", "http://localhost.evil.example/", "http://localhost@evil.example/"]
)
def test_a_message_goes_in_the_clear_to_this_machine_alone(url: str) -> None:
    with pytest.raises(ValueError, match="https"):
        Route(name="x", slack=url)


async def test_pages_for_every_team_are_offered_to_no_one_of_a_single_team(world: World) -> None:
    places = [Membership("shop", Role.PLATFORM), Membership("shop", Role.ADMIN)]
    await world.store.write(lambda tx: people.set_places(tx, "dana", by="system:test", roles=places, groups=[]))
    page = await (await world.person("dana")).get("/board")
    assert 'href="/operate"' not in page.text
    assert 'href="/people"' not in page.text


async def test_a_password_that_a_browser_adds_by_itself_opens_no_door_for_other_sites(world: World) -> None:
    ben, given = await world.person("ben"), {"verdict": "deny", "digest": "0" * 64}
    for scheme in ("Basic dXNlcjpwYXNz", "Negotiate YII=", "Digest username=x", ""):
        foreign = {"origin": "https://evil.example", "sec-fetch-site": "cross-site", "authorization": scheme}
        answer = await ben.post(f"/inbox/{HARMLESS}/vote", headers=foreign, data=given)
        assert (answer.status_code, answer.json()["code"]) == (403, "cross_site"), scheme
    assert (await ben.post("/logout", headers=foreign)).status_code == 403
