"""What a command holds while it works: settings, the open store, who is asking, and where to speak."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from sqlalchemy import Connection

from ringfence.contexts import Contexts
from ringfence.directory import LocalDirectory, current_user
from ringfence.errors import Mistake
from ringfence.local_store import open_store
from ringfence.render import Output, make_output
from ringfence.settings import Settings, load_settings
from ringfence_audit.port import Transaction
from ringfence_audit.store import SqlStore
from ringfence_tools.clock import micros
from ringfence_tools.people import Person

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Session:
    """One command's view of the local state. Valid inside `open_session`."""

    settings: Settings
    store: SqlStore
    directory: LocalDirectory
    person: Person
    output: Output

    def read(self, work: Callable[[Connection], T]) -> T:
        return self.store.read_now(work)

    def write(self, work: Callable[[Transaction], T]) -> T:
        """One transaction, durable on return."""
        return asyncio.run(self.store.write(work))


@contextmanager
def open_session(*, is_json: bool, must_exist: bool = True) -> Iterator[Session]:
    """Open the state folder. With `must_exist`, a folder that no run has used yet is a `Mistake`: asking makes none."""
    settings = load_settings()
    if Contexts.read(settings.config).active() is not None:
        raise Mistake(
            "this command works on this machine's state, and the context in use is a server",
            fix="`ringfence context use local`, or use the server's console",
        )
    if must_exist and settings.database_url is None and not settings.database.exists():
        raise Mistake(
            f"nothing has run here yet ({settings.home} holds no log)",
            fix='Start with `ringfence run --repo PATH "what to do"` or `ringfence demo`',
        )
    user = current_user()
    directory = LocalDirectory(settings.people_file, owner=user)
    with open_store(settings) as store:
        yield Session(settings, store, directory, directory.person(user), make_output(is_json=is_json))


def now_us() -> int:
    """Microseconds since the epoch, as the tables keep them."""
    return micros(datetime.now(UTC))
