"""Opens the one database of this user's state folder, with the tables of every room."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

# Imported for their tables: every room's schema must be known before `create_schema`.
import ringfence.auth.schema  # noqa: F401
import ringfence_agents.schema  # noqa: F401
import ringfence_tools.schema  # noqa: F401
from ringfence.settings import LOG_ORIGIN, Settings, make_home
from ringfence_audit.keys import Signer
from ringfence_audit.store import SqlStore


@contextmanager
def open_store(settings: Settings) -> Iterator[SqlStore]:
    """The log and every table, made where they are missing. Raises `Mistake` and `LogUnavailable`."""
    make_home(settings)
    signer = Signer.load_or_create(settings.key_file, LOG_ORIGIN)
    with SqlStore.open(settings.database_url, signer=signer) as store:
        store.create_schema()
        yield store
