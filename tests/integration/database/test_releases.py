"""A run that was parked under an earlier release goes on under this one, from the database that it left."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, select, text, update

from ringfence.auth.schema import people
from ringfence.database.upgrading import make_ready
from ringfence.database.version import Standing, standing
from ringfence_agents.runs import RunState
from ringfence_agents.schema import runs
from ringfence_audit.notes import VerifierKey
from ringfence_audit.port import Transaction
from ringfence_audit.store import SqlStore
from ringfence_audit.verify import Verdict, verify
from ringfence_tools import review
from ringfence_tools.calls import EscalationId
from ringfence_tools.escalations import get
from ringfence_tools.schema import asked_groups, calls, escalations
from tests.integration.agents.house import ANA, RUN, House
from tests.integration.database.releases.parked import FOLDER, house_on, model, signer

RELEASES = sorted(folder.name for folder in FOLDER.iterdir() if (folder / "sqlite.sql").exists())
KEY = VerifierKey.of_log("ringfence.example/log", signer().public_key)


def _kept(request: pytest.FixtureRequest, folder: Path) -> str:
    release, kind = request.param
    if (FOLDER / release / "files").exists():
        shutil.copytree(FOLDER / release / "files", folder, dirs_exist_ok=True)
    dump = (FOLDER / release / f"{kind}.sql").read_text()
    if kind == "sqlite":
        with sqlite3.connect(folder / "log.db") as connection:
            connection.executescript(dump)
        return f"sqlite:///{folder}/log.db"
    url: str = request.getfixturevalue("postgres_url")
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(dump.encode())
    return url


@pytest.fixture(
    params=[
        pytest.param((release, kind), id=f"{release}-{kind}", marks=[pytest.mark.postgres] if kind != "sqlite" else [])
        for release in RELEASES
        for kind in ("sqlite", "postgresql")
    ]
)
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    house = house_on(_kept(request, tmp_path), tmp_path)
    with house.store as store:
        make_ready(store, may_upgrade=True)
        yield house


def verdict(store: SqlStore) -> Verdict:
    return store.read_now(lambda connection: verify(connection, KEY))


def approve(tx: Transaction) -> None:
    escalation = get(tx.connection, EscalationId(1))
    review.approve(tx, escalation.id, ANA, digest=escalation.digest)


def test_a_database_of_every_release_is_kept() -> None:
    assert "0.1.0" in RELEASES


async def test_a_step_that_this_release_no_longer_knows_is_named(house: House) -> None:
    gone = update(calls).where(calls.c.state == "waiting").values(tool="of_yesterday")
    await house.store.write(lambda tx: tx.connection.execute(gone).rowcount)
    await house.store.write(approve)
    scripted = model()
    assert await house.runner(scripted).drive(RUN) in (RunState.PARKED, RunState.FAILED)
    record = await house.record()
    assert "of_yesterday" in f"{record.detail} {record.result}"
    assert scripted.asked == [], "the agent is told nothing that did not happen"
    assert house.commands() == []


async def test_a_card_that_waits_since_an_earlier_release_is_found_by_its_team_and_groups(house: House) -> None:
    """The columns that lists are asked by say what run, card and terms of the old row say."""

    def look(connection: Connection) -> None:
        rows = connection.execute(select(escalations).where(escalations.c.state == "open")).all()
        assert rows
        for row in rows:
            terms, card = json.loads(row.terms), json.loads(row.card)
            team = connection.execute(select(runs.c.team).where(runs.c.id == row.run)).scalar_one()
            names = select(asked_groups.c.name).where(asked_groups.c.escalation == row.id)
            asked = {name for (name,) in connection.execute(names)}
            assert asked == {*terms["any_of"], *terms["all_of"]}
            assert (row.team, row.rank) == (team, 0 if card["findings"] else 1)
            assert row.four_eyes == int(terms["four_eyes"])

    await house.store.read(look)


async def test_a_run_parked_under_an_earlier_release_goes_on_under_this_one(house: House) -> None:
    store = house.store
    assert store.read_now(standing) is Standing.CURRENT
    assert verdict(store).is_intact, verdict(store).text
    assert store.read_now(lambda c: c.execute(select(people.c.display)).scalars().all()) == ["Ana"]
    await store.write(approve)
    scripted = model()
    assert await house.runner(scripted).drive(RUN) is RunState.FINISHED
    assert house.commands() == ["curl https://pypi.example.org/"], "what was done before is not done again"
    assert len(scripted.asked) == 1, "what was answered before is not asked again"
    assert verdict(store).is_intact, verdict(store).text
    assert store.read_now(lambda c: c.execute(text("SELECT count(*) FROM alembic_version")).scalar()) == 1
