"""Copies of a system at work: what was acknowledged before the copy began is in it, and its log verifies."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import func, select
from sqlalchemy.engine import URL

from ringfence.database.backup import back_up
from ringfence.errors import Mistake
from ringfence.local_store import open_store
from ringfence.settings import Settings
from ringfence_audit import tables
from ringfence_audit.events import Event, Kind
from ringfence_audit.keys import Signer
from ringfence_audit.notes import VerifierKey
from ringfence_audit.store import SqlStore
from ringfence_audit.verify import verify
from tests.fixtures_postgres import PostgresMissing, find_binaries, make_database

SIGNER = Signer.generate("test.example/log")
LARGE = "word " * 2_000
"""More than an entry holds: it becomes a body of its own."""


def settings_at(home: Path) -> Settings:
    return Settings(home=home, config=home / "config", database_url=None)


async def put(store: SqlStore, n: int) -> None:
    text = f"{n} {LARGE}" if n % 10 == 0 else str(n)
    await store.write(lambda tx: tx.record(Event(Kind.GAP, "system:test", {"text": text}, run=f"r{n % 3}")))


async def while_writing(store: SqlStore, work: Callable[[], object]) -> int:
    """Run `work` on a thread while four tasks append; return how many entries there were when it began."""
    count = 0
    filled = asyncio.Event()

    async def write() -> None:
        nonlocal count
        while True:
            await put(store, count)
            count += 1
            if count >= 40:
                filled.set()

    tasks = [asyncio.create_task(write()) for _ in range(4)]
    await filled.wait()
    began = count
    await asyncio.to_thread(work)
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    return began


def test_a_folder_without_a_state_and_one_that_exists_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="nothing to back up"):
        back_up(settings_at(tmp_path / "home"), tmp_path / "copy")
    with open_store(settings_at(tmp_path / "home")):
        pass
    with pytest.raises(Mistake, match="exists already"):
        back_up(settings_at(tmp_path / "home"), tmp_path / "home")


async def test_a_live_folder_is_copied_whole_without_its_keys_and_goes_on_elsewhere(tmp_path: Path) -> None:
    home, copy = settings_at(tmp_path / "home"), settings_at(tmp_path / "copy")
    verdicts: list[bool] = []
    with open_store(home) as store:
        (home.runs / "r1").mkdir(parents=True)
        (home.runs / "r1" / "patch.diff").write_text("x")
        began = await while_writing(store, lambda: verdicts.append(back_up(home, copy.home).is_intact))
    assert verdicts == [True]
    assert not copy.key_file.exists()
    assert (copy.runs / "r1" / "patch.diff").read_text() == "x"
    copy.key_file.write_bytes(home.key_file.read_bytes())
    copy.key_file.chmod(0o600)
    with open_store(copy) as store:
        size = store.read_now(lambda connection: connection.execute(select(tables.heads.c.size)).scalar_one())
        assert size >= began
        await put(store, 1)
        key = VerifierKey.of_log(store.signer.origin, store.signer.public_key)
        verdict = store.read_now(lambda connection: verify(connection, key, blobs=store.blobs))
        assert (verdict.is_intact, verdict.size, verdict.absent_bodies) == (True, size + 1, 0), verdict.text


@pytest.mark.postgres
async def test_a_live_server_is_dumped_and_restored_with_a_log_that_verifies(
    postgres_server: URL, postgres_url: str, tmp_path: Path
) -> None:
    restored = make_database(postgres_server)
    try:
        tools = find_binaries()
    except PostgresMissing as missing:
        pytest.skip(str(missing))

    def dump() -> None:
        run(tools / "pg_dump", "--format=custom", f"--file={tmp_path / 'dump'}", postgres_url)

    with SqlStore.open(postgres_url, signer=SIGNER) as store:
        store.create_schema()
        began = await while_writing(store, dump)
    dsn = restored.render_as_string(hide_password=False)
    run(tools / "pg_restore", "--no-owner", "--exit-on-error", f"--dbname={dsn}", str(tmp_path / "dump"))
    with SqlStore.open(dsn, signer=SIGNER) as store:
        size = store.read_now(lambda c: c.execute(select(func.count()).select_from(tables.entries)).scalar_one())
        assert size >= began
        await put(store, 1)
        key = VerifierKey.of_log(SIGNER.origin, SIGNER.public_key)
        verdict = store.read_now(lambda connection: verify(connection, key, blobs=store.blobs))
        assert (verdict.is_intact, verdict.size, verdict.absent_bodies) == (True, size + 1, 0), verdict.text


def run(program: Path, *arguments: str) -> None:
    command = [str(program), *arguments]
    done = subprocess.run(command, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
