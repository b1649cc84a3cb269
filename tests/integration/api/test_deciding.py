"""Votes through the API and the console: what is refused, and that one vote has one effect."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import select

from ringfence.api.schema import opened_findings
from ringfence.auth.roles import Permission
from ringfence.voting import card_of
from ringfence_agents.runs import RunState, load
from ringfence_tools.escalations import EscalationState
from tests.integration.api.world import HARMLESS, HIDING, QUESTION, SHOP_HARMLESS, World


def approval(digest: str, **more: object) -> dict[str, object]:
    return {"verdict": "approve", "digest": digest, **more}


async def test_a_card_with_unread_findings_cannot_be_approved(world: World) -> None:
    ben = await world.person("ben")
    digest = (await world.card(HIDING)).digest
    answer = await ben.post(f"/api/v1/escalations/{HIDING}/votes", json=approval(digest, findings=[1, 2]))
    assert answer.status_code == 409
    assert answer.json()["code"] == "findings_unread"
    page = await ben.post(f"/inbox/{HIDING}/vote", data={"verdict": "once", "digest": digest})
    assert page.status_code == 409
    assert "findings that you have not read" in page.text
    assert (await world.card(HIDING)).state is EscalationState.OPEN


async def test_a_vote_on_other_bytes_than_those_shown_is_refused(world: World) -> None:
    ben = await world.person("ben")
    answer = await ben.post(f"/api/v1/escalations/{HARMLESS}/votes", json=approval("0" * 64))
    assert (answer.status_code, answer.json()["code"]) == (409, "escalation_closed")
    assert (await world.card(HARMLESS)).state is EscalationState.OPEN


async def test_another_teams_card_does_not_exist_for_a_reviewer(world: World) -> None:
    dana = await world.person("dana")
    digest = (await world.card(HARMLESS)).digest
    for answer in (
        await dana.get(f"/api/v1/escalations/{HARMLESS}"),
        await dana.get(f"/inbox/{HARMLESS}"),
        await dana.post(f"/api/v1/escalations/{HARMLESS}/votes", json=approval(digest)),
        await dana.post(f"/inbox/{HARMLESS}/vote", data={"verdict": "once", "digest": digest}),
        await dana.get("/api/v1/escalations/424242"),
    ):
        assert answer.status_code == 404


async def test_a_member_who_is_no_reviewer_is_denied_and_the_denial_is_an_entry(world: World) -> None:
    ana = await world.person("ana")
    card = await world.card(8)
    assert card.requester == "ben"
    answer = await ana.post(f"/api/v1/escalations/{card.id}/votes", json=approval(card.digest))
    assert (answer.status_code, answer.json()["code"]) == (403, "denied")
    assert "person.login denied" in await world.kinds()


async def test_the_requester_may_deny_what_their_own_agent_asks_and_not_approve_it(world: World) -> None:
    ana = await world.person("ana")
    card = await world.card(HARMLESS)
    refused = await ana.post(f"/api/v1/escalations/{HARMLESS}/votes", json=approval(card.digest))
    assert (refused.status_code, refused.json()["code"]) == (403, "denied")
    denied = await ana.post(f"/api/v1/escalations/{HARMLESS}/votes", json={"verdict": "deny", "guidance": "vendor it"})
    assert denied.status_code == 201
    assert denied.json()["escalation"]["state"] == "denied"


async def test_a_token_without_the_scope_decides_nothing(world: World) -> None:
    program = await world.program("ben", Permission.READ)
    card = await world.card(HARMLESS)
    answer = await program.post(f"/api/v1/escalations/{HARMLESS}/votes", json=approval(card.digest))
    assert answer.status_code == 403


async def test_two_keystrokes_approve_a_harmless_card_and_wake_its_run(world: World) -> None:
    ben = await world.person("ben")
    card = await world.card(HARMLESS)
    answer = await ben.post(f"/inbox/{HARMLESS}/vote", data={"verdict": "once", "digest": card.digest})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/inbox?done={HARMLESS}")
    assert (await world.card(HARMLESS)).state is EscalationState.APPROVED
    run = await world.store.read(lambda c: load(c, card.key.run))
    assert run.state is RunState.QUEUED


@pytest.mark.parametrize("who", ["iris", "ana", "omar", "eve"])
async def test_who_only_reads_changes_nothing_by_opening_a_finding_and_sees_it_all(world: World, who: str) -> None:
    reader = await world.person(who)
    refused = await reader.post(f"/inbox/{HIDING}/findings/1")
    assert refused.status_code == 403
    assert await world.store.read(lambda c: c.execute(select(opened_findings)).all()) == []
    assert (await world.kinds())[0] == "person.login denied"
    page = (await reader.get(f"/inbox/{HIDING}")).text
    assert f"/inbox/{HIDING}/findings/" not in page
    with_details = [one for one in card_of(await world.card(HIDING)).findings if one.details]
    assert page.count('class="details"') == len(with_details) > 0


async def test_findings_opened_one_by_one_unlock_the_approval(world: World) -> None:
    ben = await world.person("ben")
    card = await world.card(HIDING)
    count = len((await ben.get(f"/api/v1/escalations/{HIDING}")).json()["escalation"]["findings"])
    for number in range(1, count + 1):
        assert "Locked" in (await ben.get(f"/inbox/{HIDING}")).text
        await ben.post(f"/inbox/{HIDING}/findings/{number}")
    assert "Locked" not in (await ben.get(f"/inbox/{HIDING}")).text
    answer = await ben.post(f"/inbox/{HIDING}/vote", data={"verdict": "once", "digest": card.digest})
    assert answer.status_code == 303
    # security has to agree too, and has opened nothing
    cleo = await world.person("cleo")
    assert "Locked" in (await cleo.get(f"/inbox/{HIDING}")).text
    assert (await world.card(HIDING)).state is EscalationState.OPEN


async def test_a_vote_that_comes_twice_with_its_key_is_one_vote(world: World) -> None:
    ben = await world.person("ben")
    card = await world.card(HARMLESS)
    url, headers = f"/api/v1/escalations/{HARMLESS}/votes", {"idempotency-key": "k-1"}
    first = await ben.post(url, json=approval(card.digest), headers=headers)
    second = await ben.post(url, json=approval(card.digest), headers=headers)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    other = await ben.post(url, json={"verdict": "deny"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")
    assert (await world.kinds()).count("escalation.vote") == 1


async def test_two_reviewers_at_the_same_moment_have_one_outcome_and_each_screen_the_truth(world: World) -> None:
    dana, cleo = await world.person("dana"), await world.program("cleo")
    card = await world.card(SHOP_HARMLESS)
    before = (await world.kinds(newest=1000)).count("escalation.vote")
    url = f"/api/v1/escalations/{SHOP_HARMLESS}/votes"
    answers = await asyncio.gather(
        *(dana.post(url, json=approval(card.digest)) for _ in range(3)),
        *(dana.post(url, json={"verdict": "deny"}) for _ in range(3)),
        cleo.post(url, json={"verdict": "deny"}),
    )
    codes = sorted(answer.status_code for answer in answers)
    assert codes[0] == 201
    assert set(codes[1:]) <= {403, 409}
    assert (await world.kinds(newest=1000)).count("escalation.vote") == before + 1
    state = (await world.card(SHOP_HARMLESS)).state.value
    for client in (dana, await world.person("cleo")):
        assert state in (await client.get(f"/inbox/{SHOP_HARMLESS}")).text


async def test_a_question_is_answered_by_whoever_asked_for_the_task(world: World) -> None:
    dana = await world.person("dana")
    card = await world.card(QUESTION)
    empty = await dana.post(f"/api/v1/escalations/{QUESTION}/votes", json={"verdict": "answer", "text": " "})
    assert empty.status_code == 409
    answer = await dana.post(
        f"/inbox/{QUESTION}/vote", data={"verdict": "answer", "digest": card.digest, "text": "Du."}
    )
    assert answer.status_code == 303
    assert (await world.card(QUESTION)).answer == "Du."


async def test_the_inbox_shows_what_one_may_decide_findings_first(world: World) -> None:
    ben = await world.person("ben")
    mine = [one["id"] for one in (await ben.get("/api/v1/inbox")).json()["items"]]
    assert mine == [HIDING, 8, HARMLESS]
    everything = [one["id"] for one in (await ben.get("/api/v1/inbox?scope=all")).json()["items"]]
    assert set(everything) == {HIDING, 8, HARMLESS}
    assert not (await (await world.person("iris")).get("/api/v1/inbox")).json()["items"]
