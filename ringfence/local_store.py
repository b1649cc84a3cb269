"""Opens the one database of this user's state, with the tables of every room: a file, or PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial

from sqlalchemy.engine import make_url

from ringfence.database.upgrading import make_ready
from ringfence.errors import Mistake
from ringfence.settings import LOG_ORIGIN, Settings, make_home
from ringfence_audit.keys import Signer
from ringfence_audit.notes import VerifierKey, is_signed, parse_note
from ringfence_audit.originals import Box
from ringfence_audit.redaction import SHORTEST_VALUE, Redactor
from ringfence_audit.store import SqlStore


@contextmanager
def open_store(settings: Settings, *, clock: Callable[[], datetime] | None = None) -> Iterator[SqlStore]:
    """The log and every table, made where they are missing. Raises `Mistake` and `LogUnavailable`.

    A file is upgraded on the way; a shared database only by `ringfence db upgrade`, since others may be using it.
    Without `clock` the time is the server's where there is one, or this machine's.
    """
    make_home(settings)
    if settings.database_url is not None and not settings.key_file.exists():
        _refuse_a_second_key(settings)
    signer = Signer.load_or_create(settings.key_file, LOG_ORIGIN)
    redactor = _redactor(settings)
    people = partial(Signer.load_or_create, settings.home / "acts.key", f"{LOG_ORIGIN}/people")
    with SqlStore.open(settings.store_url, signer=signer, clock=clock, redactor=redactor, people=people) as store:
        make_ready(store, may_upgrade=settings.database_url is None)
        if settings.database_url is not None:
            _check_key(store, settings)
        yield store


def _redactor(settings: Settings) -> Redactor:
    """Takes out what looks like a secret, the model's key and the database's password; what it takes out is kept,
    sealed."""
    known = {
        "OPENAI_API_KEY": "" if settings.openai_api_key is None else settings.openai_api_key.get_secret_value(),
        "RINGFENCE_DATABASE_URL": make_url(settings.store_url).password or "",
    }
    held = {name: value for name, value in known.items() if len(value) >= SHORTEST_VALUE}
    return Redactor(values=held, originals=Box.load_or_create(settings.originals_key))


@contextmanager
def open_tables(settings: Settings) -> Iterator[SqlStore]:
    """The database whatever its tables are, for looking at them and upgrading them; nothing is to be logged in it."""
    make_home(settings)
    with SqlStore.open(settings.store_url, signer=Signer.generate(LOG_ORIGIN)) as store:
        yield store


def _refuse_a_second_key(settings: Settings) -> None:
    """Make no key for a log that has one: two would sign it in turn, and it would verify with neither."""
    with open_tables(settings) as store:
        make_ready(store, may_upgrade=False)
        if store.newest_checkpoint() is not None:
            raise Mistake(
                f"the log in this database is signed already, and its key is not at {settings.key_file}",
                fix="Copy audit.key from a machine that writes to it, or name it with RINGFENCE_AUDIT_KEY",
            )


def _check_key(store: SqlStore, settings: Settings) -> None:
    note = store.newest_checkpoint()
    key = VerifierKey.of_log(LOG_ORIGIN, store.signer.public_key)
    if note is not None and not is_signed(parse_note(note), key):
        raise Mistake(
            f"the log in this database is signed with another key than {settings.key_file}",
            fix="Use the key of the machines that write to it: RINGFENCE_AUDIT_KEY names the file",
        )
