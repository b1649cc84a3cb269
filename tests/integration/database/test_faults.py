"""Storage that fails: before and after it took effect, in the middle, for good, and for a while."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, select, text
from sqlalchemy.engine import make_url

from ringfence_agents.runs import RunState
from ringfence_audit import tables
from ringfence_audit.blobs import DatabaseBlobs
from ringfence_audit.errors import CommitUnknown, LogUnavailable
from ringfence_audit.events import Event, Kind
from ringfence_audit.keys import Signer
from ringfence_audit.notes import VerifierKey
from ringfence_audit.port import Transaction
from ringfence_audit.postgres import PostgresDatabase, PostgresSession
from ringfence_audit.store import SqlStore
from ringfence_audit.verify import verify
from ringfence_tools import escalations, review
from ringfence_tools.calls import Effect, EscalationId
from tests.fakes.model import ScriptedModel, call, finishes, says
from tests.fixtures_postgres import PostgresServer, make_database
from tests.integration.agents.house import ANA, RUN, House
from tests.integration.database import crash_cycles

SIGNER = Signer.generate("test.example/log")
KEY = VerifierKey.of_log(SIGNER.origin, SIGNER.public_key)


async def put(store: SqlStore, n: int) -> None:
    await store.write(lambda tx: tx.record(Event(Kind.GAP, "system:test", {"n": n}, run="r")))


def count(connection: Connection) -> int:
    return len(connection.execute(select(tables.entries.c.position)).all())


def assert_intact(store: SqlStore, size: int) -> None:
    verdict = store.read_now(lambda connection: verify(connection, KEY))
    assert (verdict.is_intact, verdict.size) == (True, size), verdict.text


class Faulty(PostgresDatabase):
    """A server whose connection is cut before or after the next commit, and where others commit meanwhile."""

    def __init__(self, url: str) -> None:
        super().__init__(make_url(url))
        self.before: list[Callable[[], None]] = []
        self.after: list[Callable[[], None]] = []
        self.is_away = False

    def session(self) -> PostgresSession:
        if self.is_away:
            raise psycopg.OperationalError("the server is away")
        return _FaultySession(self)


class _FaultySession(PostgresSession):
    def __init__(self, database: Faulty) -> None:
        super().__init__(database._writers.connect(), is_clock=True)
        self._faults = database

    def commit(self) -> None:
        for fault in self._faults.before[:1]:
            self._faults.before.clear()
            fault()
        super().commit()
        for fault in self._faults.after[:1]:
            self._faults.after.clear()
            fault()


def cut() -> None:
    raise psycopg.OperationalError("the connection is lost")


@pytest.fixture
def faulty(postgres_url: str) -> Faulty:
    return Faulty(postgres_url)


@pytest.fixture
def store(faulty: Faulty) -> Iterator[SqlStore]:
    with SqlStore(faulty, signer=SIGNER, blobs=DatabaseBlobs()) as store:
        store.create_schema()
        yield store


@pytest.mark.postgres
async def test_a_commit_that_was_cut_off_before_it_took_effect_did_nothing(store: SqlStore, faulty: Faulty) -> None:
    faulty.before.append(cut)
    with pytest.raises(LogUnavailable, match="nothing was done"):
        await put(store, 1)
    assert await store.read(count) == 0
    await put(store, 2)
    assert_intact(store, 1)


@pytest.mark.postgres
async def test_a_commit_whose_answer_was_lost_is_found_done_though_others_wrote_since(
    store: SqlStore, faulty: Faulty, postgres_url: str
) -> None:
    with SqlStore.open(postgres_url, signer=SIGNER) as other:

        def others_write_and_the_answer_is_lost() -> None:
            asyncio.run_coroutine_threadsafe(put(other, 2), loop).result(30)
            cut()

        loop = asyncio.get_running_loop()
        faulty.after.append(others_write_and_the_answer_is_lost)
        await put(store, 1)
    assert_intact(store, 2)


@pytest.mark.postgres
async def test_a_commit_whose_server_is_gone_is_said_to_be_unknown(store: SqlStore, faulty: Faulty) -> None:
    def answer_lost_and_gone() -> None:
        faulty.is_away = True
        cut()

    faulty.after.append(answer_lost_and_gone)
    with pytest.raises(CommitUnknown, match="look before trying again"):
        await put(store, 1)
    with pytest.raises(LogUnavailable, match="nothing was done"):
        await put(store, 2)
    faulty.is_away = False
    assert await store.read(count) == 1
    await put(store, 3)
    assert_intact(store, 2)


@pytest.mark.postgres
async def test_a_full_disk_of_the_server_refuses_and_heals(store: SqlStore) -> None:
    store.alter(lambda connection: _set_full(connection, is_full=True))
    with pytest.raises(LogUnavailable, match="nothing was done"):
        await put(store, 1)
    store.alter(lambda connection: _set_full(connection, is_full=False))
    await put(store, 2)
    assert_intact(store, 1)


def _set_full(connection: Connection, *, is_full: bool) -> None:
    """The server reports what it reports when no block can be added to a table."""
    if is_full:
        connection.execute(
            text(
                "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$"
            )
        )
        connection.execute(text("CREATE TRIGGER full_disk BEFORE INSERT ON audit_entries EXECUTE FUNCTION full_disk()"))
    else:
        connection.execute(text("DROP TRIGGER full_disk ON audit_entries"))


async def test_a_full_disk_beneath_the_file_refuses_and_heals(tmp_path: Path) -> None:
    with SqlStore.open(f"sqlite:///{tmp_path}/log.db", signer=SIGNER) as store:
        store.create_schema()
        for n in range(40):  # the write-ahead log is larger than SQLite's other files, which are to have their room
            await put(store, n)
        with no_room_beyond(tmp_path / "log.db-wal"), pytest.raises(LogUnavailable, match="nothing was done"):
            await put(store, 40)
        await put(store, 41)
        assert_intact(store, 41)


@contextmanager
def no_room_beyond(file: Path) -> Iterator[None]:
    """No file of this process can grow beyond what this one has already."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.postgres
async def test_a_connection_that_was_cut_while_idle_costs_nobody_anything(store: SqlStore, postgres_url: str) -> None:
    await put(store, 1)
    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ringfence'")
    await put(store, 2)
    assert await store.read(count) == 2
    assert_intact(store, 2)


@pytest.mark.postgres
async def test_a_writer_that_stands_still_does_not_hold_up_the_others(store: SqlStore, postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as still:
        still.execute("SET idle_in_transaction_session_timeout = 200")
        still.execute("BEGIN")
        still.execute("SELECT pg_advisory_xact_lock(%s)", (0x52464C4F47,))
        await put(store, 1)
        with pytest.raises(psycopg.Error):
            still.execute("COMMIT")
    assert_intact(store, 1)


@pytest.mark.parametrize("jump", [timedelta(days=-400), timedelta(days=400)], ids=["back", "ahead"])
async def test_a_clock_that_jumps_leaves_the_log_whole(database_url: str, jump: timedelta) -> None:
    now = [datetime(2026, 11, 24, tzinfo=UTC)]
    with SqlStore.open(database_url, signer=SIGNER, clock=lambda: now[0]) as store:
        store.create_schema()
        await put(store, 1)
        now[0] += jump
        await put(store, 2)
        await store.checkpoint()
        assert_intact(store, 2)


@pytest.mark.postgres
async def test_a_run_goes_on_where_it_was_after_its_server_was_killed(
    own_postgres: PostgresServer, tmp_path: Path
) -> None:
    url = make_database(own_postgres.url).render_as_string(hide_password=False)
    house = House.build(tmp_path, url=url)
    with house.store:
        await house.open()
        kills = [own_postgres.kill]

        def answer_while_the_server_dies(_: object) -> object:
            for kill in kills:
                kill()
            kills.clear()
            return says("", call("shell", {"command": "ls"}))

        model = ScriptedModel([answer_while_the_server_dies, finishes()])  # type: ignore[list-item]  # any request
        runner = house.runner(model)
        with pytest.raises(LogUnavailable):
            await runner.drive(RUN)
        own_postgres.start()
        house.clock.pass_s(120)
        assert await house.runner(model, worker="w2").drive(RUN) is RunState.FINISHED
        assert house.commands() == ["ls"]
        # Two minutes passed on the run's clock, and none on the one by which checkpoints fall due.
        await house.store.checkpoint()
        key = VerifierKey.of_log(house.store.signer.origin, house.store.signer.public_key)
        assert house.store.read_now(lambda connection: verify(connection, key)).is_intact


@pytest.mark.postgres
def test_crash_after_crash_of_server_and_process_nothing_acknowledged_is_lost(own_postgres: PostgresServer) -> None:
    url = make_database(own_postgres.url).render_as_string(hide_password=False)
    tally = crash_cycles.run(4, url, own_postgres, seed=3)
    assert tally.acknowledged > 0
    assert tally.server_kills + tally.cuts > 0


def test_crash_after_crash_of_the_process_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    assert crash_cycles.run(4, f"sqlite:///{tmp_path}/log.db", None, seed=4).acknowledged > 0


@pytest.mark.parametrize(("jump_s", "ran"), [(-86_400, 1), (86_400, 0)], ids=["back", "ahead"])
async def test_a_parked_run_goes_on_after_the_clock_jumped(
    database_url: str, tmp_path: Path, jump_s: float, ran: int
) -> None:
    """Ahead its card expired, which denies; back the card stays open for longer and a vote still counts."""
    house = House.build(tmp_path, effects={"curl https://pypi.example.org/": Effect.ESCALATE}, url=database_url)
    with house.store:
        await house.open()
        model = ScriptedModel([says("", call("shell", {"command": "curl https://pypi.example.org/"})), finishes()])
        assert await house.runner(model).drive(RUN) is RunState.PARKED
        house.clock.pass_s(jump_s)
        if ran:
            await house.store.write(_approve)
        assert await house.runner(model, worker="w2").drive(RUN) is RunState.FINISHED
        assert len(house.commands()) == ran


def _approve(tx: Transaction) -> None:
    card = escalations.get(tx.connection, EscalationId(1))
    review.approve(tx, card.id, ANA, digest=card.digest)
