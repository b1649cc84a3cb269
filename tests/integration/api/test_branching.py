"""A new run from a step of another, through the API and the console."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import update

from ringfence_agents.schema import runs
from tests.integration.api.world import World


@pytest.fixture
async def source(world: World) -> str:
    """A finished run of the team billing whose repository is kept on this machine."""
    found = (await (await world.person("ana")).get("/api/v1/tasks", params={"state": "finished"})).json()["items"]
    run = str(next(one["id"] for one in found if one["team"] == "billing"))
    folder = world.house.settings.runs / run
    folder.mkdir(parents=True)
    bundle = folder / "repository.bundle"
    bundle.write_bytes(b"bundle")
    workspace = json.dumps({"bundle": str(bundle), "branch": "main"})
    await world.store.write(
        lambda tx: tx.connection.execute(update(runs).where(runs.c.id == run).values(workspace=workspace))
    )
    return run


def ask(**more: object) -> dict[str, object]:
    return {"reason": "another way", "step": 0, **more}


async def test_a_run_is_forked_by_nobody_who_assigns_nothing(world: World, source: str) -> None:
    for who, status in (("iris", 403), ("dana", 404)):
        client = await world.person(who)
        assert (await client.post(f"/api/v1/runs/{source}/branches", json=ask())).status_code == status, who
        assert (await client.post(f"/runs/{source}/fork", data={"step": 0})).status_code == status, who


async def test_a_step_that_there_is_not_is_refused_and_leaves_nothing(world: World, source: str) -> None:
    ana = await world.person("ana")
    before = sorted(world.house.settings.runs.iterdir())
    answer = await ana.post(f"/api/v1/runs/{source}/branches", json=ask(step=900))
    assert (answer.status_code, answer.json()["code"]) == (409, "step_not_kept"), answer.text
    page = await ana.post(f"/runs/{source}/fork", data={"step": 900, "text": "typed with care"})
    assert page.status_code == 409
    assert "typed with care" in page.text
    assert sorted(world.house.settings.runs.iterdir()) == before


async def test_a_run_whose_files_are_gone_says_so(world: World, source: str) -> None:
    (world.house.settings.runs / source / "repository.bundle").unlink()
    answer = await (await world.person("ana")).post(f"/api/v1/runs/{source}/branches", json=ask())
    assert (answer.status_code, answer.json()["code"]) == (409, "refused"), answer.text
    assert [one.name for one in world.house.settings.runs.iterdir()] == [source]


async def test_a_fork_is_a_run_of_its_own_and_made_once_for_a_key(world: World, source: str) -> None:
    ana, key = await world.person("ana"), {"idempotency-key": "fork-1"}
    first = await ana.post(f"/api/v1/runs/{source}/branches", json=ask(message="try it with decimals"), headers=key)
    again = await ana.post(f"/api/v1/runs/{source}/branches", json=ask(message="try it with decimals"), headers=key)
    assert first.status_code == again.status_code == 201, first.text
    assert first.json() == again.json()
    run = first.json()["run"]
    shown = (await ana.get(f"/api/v1/runs/{run}")).json()
    assert (shown["state"], shown["on_behalf_of"], shown["team"]) == ("queued", "ana", "billing")
    assert len(list(world.house.settings.runs.iterdir())) == 2


async def test_the_console_forks_and_shows_the_new_run(world: World, source: str) -> None:
    ana = await world.person("ana")
    assert f'action="/runs/{source}/fork"' in (await ana.get(f"/runs/{source}")).text
    answer = await ana.post(f"/runs/{source}/fork", data={"step": 0, "text": "try it with decimals"})
    assert answer.status_code == 303, answer.text
    assert answer.headers["location"] != f"/runs/{source}"
    assert (await ana.get(answer.headers["location"])).status_code == 200
