"""A throwaway PostgreSQL for tests: started once a session from installed binaries, or taken from the environment.

`postgres_url` is a fresh, empty database for one test. Where there is neither, tests that ask for it are skipped and
say why. `RINGFENCE_TEST_POSTGRES` is a DSN of a server on which databases may be made; `RINGFENCE_TEST_POSTGRES_BIN`
is a folder of server binaries that are not found by themselves.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy.engine import URL, make_url

_START_S = 30.0
_CREATE = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'")
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_EMPTY = """
DO $$
DECLARE t regclass; filled text := ''; has_rows boolean;
BEGIN
    FOR t IN SELECT oid FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace LOOP
        EXECUTE format('SELECT EXISTS (SELECT 1 FROM %s)', t) INTO has_rows;
        CONTINUE WHEN NOT has_rows OR t::text = 'alembic_version';
        filled := concat_ws(', ', nullif(filled, ''), t::text);
    END LOOP;
    IF filled <> '' THEN EXECUTE 'TRUNCATE ' || filled || ' RESTART IDENTITY CASCADE'; END IF;
END $$
"""
_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "timezone": "UTC",
    "log_min_messages": "warning",
}


class PostgresMissing(Exception):
    """No server can be started or reached here; the message says why."""


class PostgresServer:
    """A server of our own on a socket in a private folder. It ends with `stop`, and with this process at the latest.

    `kill` ends every process of it as a power cut would, `start` after it recovers from the write-ahead log.
    """

    def __init__(self, binaries: Path, folder: Path, user: str | None, *, is_synced: bool) -> None:
        self._settings = _SETTINGS if is_synced else {**_SETTINGS, "fsync": "off", "full_page_writes": "off"}
        self._binaries = binaries
        self._folder = folder
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def make(cls, binaries: Path, *, is_synced: bool = False) -> PostgresServer:
        """A new cluster, not started yet. Raises `PostgresMissing`.

        Without `is_synced` the server leaves it to the kernel when bytes reach the disk: killed processes lose nothing
        by that, only a power cut would, and tests are quicker. Measure with it.
        """
        user = _unprivileged_user()
        # Not below pytest's folder: that is closed to the user that the server runs as, and too long for a socket.
        folder = Path(tempfile.mkdtemp(prefix="rf-pg-"))
        server = cls(binaries, folder, user, is_synced=is_synced)
        if user is not None:
            shutil.chown(folder, user)
        done = server._run(
            "initdb", "-D", str(server.data), "-U", "ringfence", "--auth=trust", "--no-sync", "--encoding=UTF8"
        )
        if done.returncode != 0:
            shutil.rmtree(folder)
            raise PostgresMissing(f"initdb failed: {done.stdout.decode(errors='replace')[-400:]}")
        return server

    @property
    def data(self) -> Path:
        return self._folder / "data"

    @property
    def url(self) -> URL:
        """Of the maintenance database."""
        return URL.create("postgresql", "ringfence", database="postgres", query={"host": str(self._folder)})

    def start(self) -> None:
        """Start and wait until it answers."""
        options = [f"-c{name}={value}" for name, value in self._settings.items()]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._binaries / "postgres"), "-D", str(self.data), f"-k{self._folder}", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                user=self._user,
                extra_groups=[] if self._user is not None else None,
                preexec_fn=_end_with_parent,
            )
        until = time.monotonic() + _START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                raise PostgresMissing(f"the server did not start: {(self._folder / 'log').read_text()[-400:]}")

    def kill(self) -> None:
        """SIGKILL to the server and every one of its processes."""
        assert self._process is not None
        if not self.has_ended:
            kill_server(self._process.pid)
        self._process.wait()
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        self._process = None

    @property
    def pid(self) -> int:
        """Of the process that all others of the server are children of."""
        assert self._process is not None
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether somebody ended it; `kill` then tidies up, and `start` starts it again."""
        return self._process is not None and self._process.poll() is not None

    def stop(self) -> None:
        """End the server at once and remove all that it stored."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
        shutil.rmtree(self._folder)

    def _answers(self) -> bool:
        done = self._run("pg_isready", "-h", str(self._folder), "-d", "postgres", "-t", "5")
        if done.returncode != 0:
            time.sleep(0.02)
        return done.returncode == 0

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [str(self._binaries / program), *arguments],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self._folder,
            user=self._user,
            extra_groups=[] if self._user is not None else None,
        )


def kill_server(pid: int) -> None:
    """SIGKILL to this server and all its processes, from whichever process; one that has ended already is left."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)  # it starts no more of them
    with suppress(FileNotFoundError, ProcessLookupError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def find_binaries() -> Path:
    """The newest installed server. Raises `PostgresMissing`."""
    named = os.environ.get("RINGFENCE_TEST_POSTGRES_BIN")
    homes = [Path(named)] if named else sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version, reverse=True)
    on_path = shutil.which("postgres")
    homes += [Path(on_path).parent] if on_path else []
    for home in homes:
        if (home / "postgres").exists() and (home / "initdb").exists():
            return home
    raise PostgresMissing("no PostgreSQL server is installed (apt: postgresql), and RINGFENCE_TEST_POSTGRES is not set")


def make_database(server: URL) -> URL:
    """A new, empty database on the server."""
    name = f"t_{secrets.token_hex(6)}"
    with psycopg.connect(server.render_as_string(hide_password=False), autocommit=True) as connection:
        connection.execute(_CREATE.format(sql.Identifier(name)))
    return server.set(database=name)


def drop_database(server: URL, database: URL) -> None:
    """Drop it, whoever is still connected."""
    assert database.database is not None
    with psycopg.connect(server.render_as_string(hide_password=False), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database.database)))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[URL]:
    """The server that databases are made on."""
    given = os.environ.get("RINGFENCE_TEST_POSTGRES")
    if given:
        yield make_url(given).set(drivername="postgresql")
        return
    try:
        server = PostgresServer.make(find_binaries())
    except PostgresMissing as missing:
        pytest.skip(str(missing))
    try:
        server.start()
        yield server.url
    finally:
        server.stop()


@pytest.fixture
def postgres_url(postgres_server: URL) -> Iterator[str]:
    """A fresh database, as a DSN."""
    database = make_database(postgres_server)
    yield database.render_as_string(hide_password=False)
    drop_database(postgres_server, database)


def _kinds() -> list[object]:
    wanted = os.environ.get("RINGFENCE_TEST_DATABASES", "sqlite,postgresql").split(",")
    return [
        pytest.param(kind, marks=[pytest.mark.postgres] if kind == "postgresql" else [])
        for kind in ("sqlite", "postgresql")
        if kind in wanted
    ]


@pytest.fixture(scope="session")
def shared_postgres(postgres_server: URL) -> Iterator[URL]:
    database = make_database(postgres_server)
    yield database
    drop_database(postgres_server, database)


@pytest.fixture
def emptied_postgres(shared_postgres: URL) -> Iterator[str]:
    """A database without rows, with the tables that earlier tests made: much quicker than a fresh one."""
    dsn = shared_postgres.render_as_string(hide_password=False)
    yield dsn
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(_EMPTY)


@pytest.fixture(params=_kinds())
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without rows, of each kind in turn. `RINGFENCE_TEST_DATABASES=sqlite` leaves the others out."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/log.db"
    url: str = request.getfixturevalue("emptied_postgres")
    return url


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A started server of this test's own, which it may kill. Skipped where no binaries are installed."""
    try:
        server = PostgresServer.make(find_binaries())
    except PostgresMissing as missing:
        pytest.skip(str(missing))
    try:
        server.start()
        yield server
    finally:
        server.stop()


def _unprivileged_user() -> str | None:
    """Who the server runs as: itself refuses root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise PostgresMissing("PostgreSQL refuses to run as root, and there is no user postgres or nobody")


def _version(binaries: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in binaries.parent.name.split(".") if part.isdigit())


def _end_with_parent() -> None:
    """In the child: SIGQUIT (end at once) when the test process dies, so that a killed test run leaves no server."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT, 0, 0, 0)
