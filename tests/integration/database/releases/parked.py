"""What the kept database of a release holds: a run that did one thing and then waits for a person.

`python -m tests.integration.database.releases.parked 0.1.0` writes the dumps of that release, with the code of that
release; afterwards they are never written again.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import insert

from ringfence.auth.schema import people
from ringfence.database.upgrading import make_ready
from ringfence_agents.runs import RunState
from ringfence_audit.keys import Signer
from ringfence_audit.store import SqlStore
from ringfence_tools.calls import Effect
from tests.fakes.model import ScriptedModel, call, finishes, says
from tests.fakes.policy import FakePolicy
from tests.fixtures_postgres import PostgresServer, find_binaries, make_database
from tests.integration.agents.house import RUN, Clock, House

FOLDER = Path(__file__).resolve().parent
LIST = call("shell", {"command": "ls"}, id="c0")
FETCH = call("shell", {"command": "curl https://pypi.example.org/"}, id="c1")


def signer() -> Signer:
    """The key of these logs, which are no secret."""
    seed = sha256(b"ringfence: the kept databases of releases").digest()
    return Signer("ringfence.example/log", Ed25519PrivateKey.from_private_bytes(seed))


def house_on(url: str, folder: Path) -> House:
    clock = Clock()
    store = SqlStore.open(url, signer=signer(), clock=clock)
    asks = FakePolicy({"curl https://pypi.example.org/": Effect.ESCALATE})
    return House(store, clock, folder, policy=asks)


def model() -> ScriptedModel:
    return ScriptedModel([says("I look around.", LIST), says("I need the index.", FETCH), finishes()])


def fill(url: str, folder: Path) -> None:
    """Park the run; its files are beneath `folder`."""
    house = house_on(url, folder)
    with house.store as store:
        make_ready(store, may_upgrade=True)
        asyncio.run(_park(house))


async def _park(house: House) -> None:
    ana = {"name": "ana", "kind": "person", "display": "Ana", "created_at": 1}
    await house.store.write(lambda tx: tx.connection.execute(insert(people).values(**ana)).rowcount)
    await house.open()
    if await house.runner(model()).drive(RUN) is not RunState.PARKED:
        raise RuntimeError("the run did not park")


def _write(release: str) -> None:
    target = FOLDER / release
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill(f"sqlite:///{folder}/log.db", folder)
        with sqlite3.connect(folder / "log.db") as connection:
            written = "\n".join(connection.iterdump()) + "\n"
        for path in folder.glob("log.db*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(folder, target / "files")
        (target / "sqlite.sql").write_text(written)
    server = PostgresServer.make(find_binaries())
    try:
        server.start()
        url = make_database(server.url).render_as_string(hide_password=False)
        with tempfile.TemporaryDirectory() as name:
            fill(url, Path(name))
        dump = [str(find_binaries() / "pg_dump"), "--inserts", "--no-owner", "--no-privileges", url]
        done = subprocess.run(dump, check=True, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
        lines = [line for line in done.stdout.splitlines() if not line.startswith(("--", "\\"))]
        (target / "postgresql.sql").write_text("\n".join(lines) + "\n")
    finally:
        server.stop()


if __name__ == "__main__":
    _write(sys.argv[1])
