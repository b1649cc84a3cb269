"""Role × team × endpoint, generated from the OpenAPI document and the one roles table: no leak, and 404 rather than
403 for what one may not know of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from ringfence.auth import people
from ringfence.auth.identity import Membership
from ringfence.auth.roles import EVERY_TEAM, TABLE, Permission, Role
from ringfence_audit.port import Transaction
from tests.integration.api.world import HARMLESS, World


@dataclass(frozen=True, slots=True)
class Rule:
    """What an operation needs, where: in the `team` of the thing, in `every` team, or `anywhere`."""

    permission: Permission | None
    where: Literal["team", "every", "anywhere"]
    body: object = None


BECAUSE = {"reason": "the test says so"}
VOTE = {"verdict": "deny", "guidance": "no"}
PROFILE = "apiVersion: ringfence.dev/v1\nkind: Profile\nmetadata: {name: fresh, owner: platform, version: 1}\n"
TASK = {"text": "x", "repository": "https://git.example.org/a/b", "team": "billing"}
RULES: dict[str, Rule] = {
    "me": Rule(None, "anywhere"),
    "list_tokens": Rule(None, "anywhere"),
    "create_token": Rule(None, "anywhere", {"scopes": ["team.read"]}),
    "list_teams": Rule(None, "anywhere"),
    "list_tasks": Rule(None, "anywhere"),
    "inbox": Rule(None, "anywhere"),
    "list_escalations": Rule(None, "anywhere"),
    "list_grants": Rule(None, "anywhere"),
    "last_verdict": Rule(None, "anywhere"),
    "list_profiles": Rule(Permission.READ, "anywhere"),
    "show_profile": Rule(Permission.READ, "anywhere"),
    "try_call": Rule(Permission.READ, "anywhere", {"call": "shell ls"}),
    "list_versions": Rule(Permission.READ, "anywhere"),
    "show_version": Rule(Permission.READ, "anywhere"),
    "list_changes": Rule(Permission.READ, "anywhere"),
    "list_uses": Rule(Permission.READ, "anywhere"),
    "publish_profile": Rule(Permission.PUBLISH, "every", {"text": PROFILE, "reason": "the test says so"}),
    "check_profile": Rule(Permission.PUBLISH, "every", {"text": PROFILE}),
    "list_entries": Rule(Permission.READ_ENTRIES, "anywhere"),
    "list_sandboxes": Rule(Permission.OPERATE, "anywhere"),
    "assign_task": Rule(Permission.ASSIGN, "team", TASK),
    "branch": Rule(Permission.ASSIGN, "team", BECAUSE),
    "show_run": Rule(Permission.READ, "team"),
    "list_steps": Rule(Permission.READ, "team"),
    "show_result": Rule(Permission.READ, "team"),
    "show": Rule(Permission.READ, "team"),
    "post_message": Rule(Permission.STEER, "team", {"text": "hello"}),
    "pause": Rule(Permission.STEER, "team", BECAUSE),
    "resume": Rule(Permission.STEER, "team"),
    "change_budget": Rule(Permission.STEER, "team", BECAUSE),
    "cancel": Rule(Permission.STOP, "team", BECAUSE),
    "vote": Rule(Permission.DECIDE, "team", VOTE),
    "revoke": Rule(Permission.REVOKE, "team"),
    "export_run": Rule(Permission.EXPORT, "team"),
    "show_entry": Rule(Permission.READ_ENTRIES, "team"),
    "verify_now": Rule(Permission.READ_ENTRIES, "every"),
    "create_team": Rule(Permission.MANAGE, "every", {"name": "newteam"}),
    "list_people": Rule(Permission.MANAGE, "every"),
    "create_person": Rule(Permission.MANAGE, "every", {"name": "newcomer"}),
    "show_person": Rule(Permission.MANAGE, "every"),
    "set_places": Rule(Permission.MANAGE, "every", {"roles": []}),
    "invite": Rule(Permission.MANAGE, "every"),
    "disable": Rule(Permission.MANAGE, "every"),
    "stop": Rule(Permission.OPERATE, "every", BECAUSE),
}
OTHERWISE_TESTED = {"log_in", "log_out", "inbox_events", "run_events", "patch", "revoke_token"}


async def operations(world: World) -> list[tuple[str, str, str]]:
    """Name, method, path with ids of things that belong to the team billing."""
    document = (await world.stranger().get("/openapi.json")).json()
    card = await world.card(HARMLESS)
    grant = next(one["id"] for one in (await (await world.person("ben")).get("/api/v1/grants")).json()["items"])
    iris = await world.person("iris")
    entries = (await iris.get("/api/v1/entries", params={"run": card.key.run})).json()["items"]
    values = {
        "run": card.key.run,
        "number": str(card.id),
        "grant": grant,
        "position": str(entries[0]["position"]),
        "name": "ana",
        "token": "none",
    }
    found = []
    for path, methods in document["paths"].items():
        if not path.startswith("/api/v1"):
            continue
        for method, operation in methods.items():
            known = path.replace("/profiles/{name}", "/profiles/python-service").replace(
                "/versions/{number}", "/versions/7"
            )
            filled = known.format(**values)
            found.append((operation["operationId"], method, filled))
    return found


async def holder(world: World, role: Role, team: str) -> str:
    """Someone who holds this role in this team and nothing else."""
    name = f"{role.value}-{'all' if team == EVERY_TEAM else team}"

    def make(tx: Transaction) -> None:
        people.create_person(tx, name, by="system:test")
        people.set_places(tx, name, by="system:test", roles=[Membership(team, role)], groups=[])

    await world.store.write(make)
    return name


async def test_every_operation_has_its_line_in_the_matrix(world: World) -> None:
    names = {name for name, _, _ in await operations(world)}
    assert names == set(RULES) | OTHERWISE_TESTED


async def test_a_stranger_gets_401_from_every_operation(world: World) -> None:
    stranger = world.stranger()
    for name, method, path in await operations(world):
        if name == "log_in":
            continue
        answer = await stranger.request(method, path, json=RULES.get(name, Rule(None, "team")).body or {})
        assert answer.status_code == 401, (name, answer.text)


@pytest.mark.parametrize("role", list(Role))
async def test_what_belongs_to_another_team_does_not_exist(world: World, role: Role) -> None:
    listed = await operations(world)
    client = await world.person(await holder(world, role, "shop"))
    for name, method, path in listed:
        rule = RULES.get(name)
        if rule is None or rule.where != "team":
            continue
        answer = await client.request(method, path, json=rule.body)
        wanted = {403, 404} if name in ("show_entry",) and rule.permission not in TABLE[role] else {404}
        assert answer.status_code in wanted, (name, answer.status_code, answer.text)
        assert "billing" not in answer.text


@pytest.mark.parametrize("role", list(Role))
async def test_within_a_team_a_role_may_what_the_table_says_and_no_more(world: World, role: Role) -> None:
    listed = await operations(world)
    name_of = await holder(world, role, "billing")
    client = await world.person(name_of)
    for name, method, path in listed:
        rule = RULES.get(name)
        if rule is None:
            continue
        may = rule.permission is None or (rule.permission in TABLE[role] and rule.where != "every")
        answer = await client.request(method, path, json=rule.body)
        if may:
            # `vote`: the permission is there, the group that the card asks for is not.
            wanted = {403} if name == "vote" else {200, 201, 409, 503}
            if name == "revoke" and "no live grant" in answer.text:
                continue  # the data set's grant ended with its run
            assert answer.status_code in wanted, (name, answer.status_code, answer.text)
            assert answer.status_code != 403 or answer.json()["code"] == "vote_not_allowed"
        else:
            assert answer.status_code == 403, (name, answer.status_code, answer.text)
            assert answer.json()["code"] == "denied"


@pytest.mark.parametrize("role", list(Role))
async def test_in_every_team_a_role_may_what_the_table_says(world: World, role: Role) -> None:
    listed = await operations(world)
    client = await world.person(await holder(world, role, EVERY_TEAM))
    for name, method, path in sorted(listed, key=lambda one: one[0] == "disable"):
        rule = RULES.get(name)
        if rule is None or rule.where != "every":
            continue
        answer = await client.request(method, path, json=rule.body)
        assert (answer.status_code != 403) == (rule.permission in TABLE[role]), (name, answer.text)


async def test_lists_hold_nothing_of_another_team(world: World) -> None:
    dana = await world.person("dana")
    for path in ("tasks", "escalations", "grants", "inbox?scope=all", "teams", "sandboxes"):
        answer = await dana.get(f"/api/v1/{path}")
        assert "billing" not in answer.text, path


async def test_an_auditor_of_one_team_reads_that_teams_entries_alone(world: World) -> None:
    auditor = await world.person(await holder(world, Role.AUDITOR, "shop"))
    items = (await auditor.get("/api/v1/entries", params={"limit": 200})).json()["items"]
    runs = {one["id"]: one["team"] for one in (await auditor.get("/api/v1/tasks?limit=200")).json()["items"]}
    assert items
    assert {runs.get(one["run"]) for one in items} == {"shop"}
