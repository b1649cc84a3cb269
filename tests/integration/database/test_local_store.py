"""Which database a command opens, and with which key it may sign there."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr
from sqlalchemy.engine import make_url

from ringfence.errors import Mistake
from ringfence.local_store import open_store
from ringfence.settings import Settings, load_settings
from ringfence_audit.errors import LogUnavailable
from ringfence_audit.events import Event, Kind
from ringfence_audit.port import Transaction
from ringfence_audit.postgres import PostgresSession
from ringfence_audit.query import Filter, query


def settings_for(home: Path, url: str | None) -> Settings:
    return Settings(home=home, config=home / "config", database_url=None if url is None else SecretStr(url))


def append(settings: Settings) -> None:
    with open_store(settings) as store:
        asyncio.run(store.write(lambda tx: tx.record(Event(Kind.GAP, "system:test", {"n": 1}))))


@pytest.mark.parametrize("url", ["mysql://u@db.example.org/x", "/var/lib/x.db", "sqlite:////x.db", ""])
def test_an_address_that_is_not_postgresql_is_refused_in_words(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGFENCE_DATABASE_URL", url)
    with pytest.raises(Mistake, match=r"DATABASE_URL cannot be used: .*names a PostgreSQL database"):
        load_settings()


def test_a_server_that_does_not_answer_is_said_so_without_its_password(tmp_path: Path) -> None:
    url = f"postgresql://ana:hunter2@/shop?host={tmp_path}"
    with pytest.raises(LogUnavailable, match="cannot be reached") as raised, open_store(settings_for(tmp_path, url)):
        pass
    assert "hunter2" not in str(raised.value)


@pytest.mark.postgres
def test_a_machine_without_the_logs_key_makes_none_and_writes_nothing(tmp_path: Path, postgres_url: str) -> None:
    append(settings_for(tmp_path / "first", postgres_url))
    second = settings_for(tmp_path / "second", postgres_url)
    with pytest.raises(Mistake, match="RINGFENCE_AUDIT_KEY"):
        append(second)
    assert not second.key_file.exists()


@pytest.mark.postgres
def test_the_time_is_the_servers_and_its_password_never_enters_the_log(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = datetime(2001, 2, 3, tzinfo=UTC)
    monkeypatch.setattr(PostgresSession, "now", lambda session: servers)
    password = make_url(postgres_url).password or "hunter2hunter2"  # a server that asks for none takes any
    url = make_url(postgres_url).set(password=password).render_as_string(hide_password=False)
    told = Event(Kind.GAP, "system:test", {"text": f"the password is {password}"})

    def record(tx: Transaction) -> datetime:
        tx.record(told)
        return tx.now

    with open_store(settings_for(tmp_path, url)) as store:
        assert asyncio.run(store.write(record)) == servers
        page = store.read_now(lambda connection: query(connection, Filter()))
        assert password not in str(page.entries[0].data)


@pytest.mark.postgres
def test_a_machine_with_another_key_is_refused(tmp_path: Path, postgres_url: str) -> None:
    second = settings_for(tmp_path / "second", None)
    append(second)
    append(settings_for(tmp_path / "first", postgres_url))
    with pytest.raises(Mistake, match="signed with another key"):
        append(settings_for(tmp_path / "second", postgres_url))


@pytest.mark.postgres
def test_machines_with_one_key_write_one_log(tmp_path: Path, postgres_url: str) -> None:
    first = settings_for(tmp_path / "first", postgres_url)
    append(first)
    second = settings_for(tmp_path / "second", postgres_url).model_copy(update={"audit_key": first.key_file})
    append(second)
    with open_store(second) as store:
        note = store.newest_checkpoint()
    assert note is not None
    assert note.splitlines()[1] == "2"


def test_an_address_that_nobody_can_read_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGFENCE_DATABASE_URL", "postgresql://u@a:5432,b:5433/x")
    with pytest.raises(Mistake, match=r"\?host=A:5432&host=B:5432"):
        load_settings()


@pytest.mark.postgres
def test_a_role_that_owns_its_database_and_nothing_else_is_enough(tmp_path: Path, postgres_url: str) -> None:
    role = make_url(postgres_url).database
    assert role is not None
    name = sql.Identifier(role)
    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute(sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER PASSWORD 'plain-password'").format(name))
        server.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(name, name))
    try:
        plain = make_url(postgres_url).set(username=role, password="plain-password")
        append(settings_for(tmp_path, plain.render_as_string(hide_password=False)))
        append(settings_for(tmp_path, plain.render_as_string(hide_password=False)))
    finally:
        with psycopg.connect(postgres_url, autocommit=True) as server:
            server.execute(sql.SQL("REASSIGN OWNED BY {} TO CURRENT_USER").format(name))
            server.execute(sql.SQL("DROP OWNED BY {}").format(name))
            server.execute(sql.SQL("DROP ROLE {}").format(name))
