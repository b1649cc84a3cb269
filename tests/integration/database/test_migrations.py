"""The tables: made at once or step by step they are the same; what this release cannot work with it leaves alone."""

from __future__ import annotations

import ast
import asyncio
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DatabaseError

from ringfence.database import scripts, tables, upgrading, version
from ringfence.database.upgrading import make_ready, migrate
from ringfence.database.version import HEAD, KNOWN, Standing, standing, version_of
from ringfence.errors import Mistake
from ringfence_audit.errors import LogUnavailable
from ringfence_audit.events import Event, Kind
from ringfence_audit.keys import Signer
from ringfence_audit.port import Transaction
from ringfence_audit.schema import metadata
from ringfence_audit.store import SqlStore
from tests.lints.sources import modules

SIGNER = Signer.generate("test.example/log")
CHANGED = """the tables changed: python -m ringfence.database.drafting "what changed"
(or --again, while no release has the newest migration)"""
AFTER = f"{len(KNOWN) + 1:04d}"
NEXT = """
import sqlalchemy as sa
from alembic import op

revision = "AFTER"
down_revision = "HEAD"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("tasks") as batch:
        batch.add_column(sa.Column("colour", sa.Text(), nullable=False, server_default="grey"))
    op.create_table("half_done", sa.Column("n", sa.Integer()))
    FAIL
""".replace("AFTER", AFTER).replace("HEAD", HEAD)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/log.db"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
def store(url: str) -> Iterator[SqlStore]:
    with SqlStore.open(url, signer=SIGNER) as store:
        yield store


def mark(store: SqlStore, number: str) -> None:
    store.alter(lambda connection: _execute(connection, "UPDATE alembic_version SET version_num = :n", n=number))


def _execute(connection: Connection, statement: str, **values: str) -> None:
    connection.execute(text(statement), values)


def tables_of(store: SqlStore) -> set[str]:
    return set(store.read_now(lambda connection: inspect(connection).get_table_names()))


@pytest.fixture
def next_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A release that has one migration more than this one."""
    folder = tmp_path / "migrations"
    shutil.copytree(scripts.FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "versions" / f"{AFTER}_next.py"
    path.write_text(NEXT.replace("FAIL", "pass"))
    monkeypatch.setattr(scripts, "FOLDER", folder)
    monkeypatch.setattr(version, "KNOWN", (*KNOWN, AFTER))
    monkeypatch.setattr(version, "HEAD", AFTER)
    monkeypatch.setattr(upgrading, "HEAD", AFTER)
    yield path


def test_tables_of_a_newer_release_are_refused_and_left_alone(store: SqlStore) -> None:
    make_ready(store, may_upgrade=True)
    mark(store, "9999")
    with pytest.raises(Mistake, match=r"newer Ringfence than this one.*nothing was changed"):
        make_ready(store, may_upgrade=True)
    assert store.read_now(version_of) == "9999"


def test_tables_without_a_version_are_refused_and_left_alone(store: SqlStore) -> None:
    store.alter(lambda connection: _execute(connection, "CREATE TABLE calls (x INTEGER)"))
    with pytest.raises(Mistake, match="from before its first release"):
        make_ready(store, may_upgrade=True)
    assert tables_of(store) == {"calls"}


def test_older_tables_of_a_shared_database_wait_for_a_person(store: SqlStore, next_release: Path) -> None:
    store.alter(lambda connection: migrate(connection, target=HEAD))
    with pytest.raises(Mistake, match="ringfence db upgrade"):
        make_ready(store, may_upgrade=False)
    assert store.read_now(standing) is Standing.OLDER


def test_an_upgrade_that_fails_midway_leaves_everything_as_it_was(store: SqlStore, next_release: Path) -> None:
    store.alter(lambda connection: migrate(connection, target=HEAD))
    before = tables_of(store)
    next_release.write_text(NEXT.replace("FAIL", 'op.execute("SELECT * FROM nowhere")'))
    with pytest.raises(DatabaseError):
        make_ready(store, may_upgrade=True)
    assert (store.read_now(version_of), tables_of(store)) == (HEAD, before)


def test_a_filled_database_keeps_its_rows_and_its_log_through_an_upgrade(store: SqlStore, next_release: Path) -> None:
    store.alter(lambda connection: migrate(connection, target=HEAD))
    event = Event(Kind.GAP, "system:test", {"n": 1})

    def fill(tx: Transaction) -> None:
        _execute(tx.connection, "INSERT INTO tasks VALUES ('t', 'x', 'r', '', 'ana', 1)")
        tx.record(event)

    asyncio.run(store.write(fill))
    make_ready(store, may_upgrade=True)
    assert store.read_now(version_of) == AFTER
    assert store.read_now(lambda c: c.execute(text("SELECT text, colour FROM tasks")).one()) == ("x", "grey")
    asyncio.run(store.write(lambda tx: tx.record(event)))
    assert store.read_now(lambda c: c.execute(text("SELECT size FROM audit_head")).scalar()) == 2


def test_tables_made_at_once_equal_those_made_step_by_step(url: str, request: pytest.FixtureRequest) -> None:
    shapes = []
    for make in (metadata.create_all, migrate):
        with SqlStore.open(url, signer=SIGNER) as store:
            store.alter(make)
            shapes.append((store.read_now(_reflected), store.read_now(_written)))
            store.alter(_drop_all)
    fresh, migrated = shapes
    assert migrated == fresh, CHANGED


def test_the_migrations_leave_nothing_for_alembic_to_add(store: SqlStore) -> None:
    store.alter(migrate)
    found = store.read_now(lambda connection: compare_metadata(MigrationContext.configure(connection), metadata))
    assert found == [], CHANGED


def test_the_release_knows_its_migrations_in_their_order() -> None:
    walk = ScriptDirectory.from_config(scripts.configuration()).walk_revisions()
    assert tuple(script.revision for script in walk)[::-1] == KNOWN


def test_every_module_that_defines_a_table_is_known_to_the_migrations() -> None:
    defining: set[str] = set()
    imported: set[str] = set()
    for module in modules():
        for node in module.tree.body:
            if isinstance(node, ast.ImportFrom) and node.module == "sqlalchemy":
                defining |= {module.name} if "Table" in {alias.name for alias in node.names} else set()
            elif isinstance(node, ast.Import) and module.name == tables.__name__:
                imported |= {alias.name for alias in node.names}
    assert defining - {tables.__name__} == imported & defining


def test_two_that_make_the_tables_at_once_make_them_once(url: str) -> None:
    start = threading.Barrier(2)
    failed: list[Exception] = []

    def one() -> None:
        with SqlStore.open(url, signer=SIGNER) as store:
            start.wait(30)
            try:
                make_ready(store, may_upgrade=True)
            except (Mistake, DatabaseError, LogUnavailable) as error:
                failed.append(error)

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    with SqlStore.open(url, signer=SIGNER) as store:
        assert store.read_now(standing) is Standing.CURRENT
        assert store.read_now(lambda c: c.execute(text("SELECT count(*) FROM alembic_version")).scalar()) == 1


def test_a_fresh_database_is_marked_with_this_release(store: SqlStore) -> None:
    assert store.read_now(standing) is Standing.EMPTY
    make_ready(store, may_upgrade=False)
    make_ready(store, may_upgrade=False)
    assert store.read_now(version_of) == HEAD


def _reflected(connection: Connection) -> dict[str, object]:
    seen = inspect(connection)
    return {
        name: (
            [(c["name"], str(c["type"]), c["nullable"], c["default"]) for c in seen.get_columns(name)],
            seen.get_pk_constraint(name),
            sorted(str(sorted(key.items())) for key in seen.get_foreign_keys(name)),
            sorted(
                (index["name"] or "", tuple(index["column_names"]), index["unique"]) for index in seen.get_indexes(name)
            ),
        )
        for name in seen.get_table_names()
    }


def _written(connection: Connection) -> list[str]:
    """What the database itself says that it holds: what reflection passes over is in here too."""
    if connection.dialect.name == "sqlite":
        found = connection.execute(text("SELECT coalesce(sql, name) FROM sqlite_master")).scalars()
        return sorted(re.sub(r'[\s"]+', " ", str(statement)).strip() for statement in found)
    statement = """
        SELECT c.relname || '.' || a.attname || ' ' || a.attnum || format_type(a.atttypid, a.atttypmod) || a.attnotnull
               || coalesce(pg_get_expr(d.adbin, d.adrelid), '')
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
        LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'S')
        UNION ALL SELECT conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace
        UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
    """
    return sorted(str(line) for line in connection.execute(text(statement)).scalars())


def _drop_all(connection: Connection) -> None:
    metadata.drop_all(connection)
