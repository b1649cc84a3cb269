"""A feed of this machine's log to a collector, one process at a time."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

from ringfence.errors import Mistake, Unavailable
from ringfence.settings import LOG_ORIGIN, Settings
from ringfence_audit.collectors import Form, make_collector
from ringfence_audit.port import Transaction
from ringfence_audit.store import SqlStore
from ringfence_audit.stream import Feed, Sent

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,60}\Z")


class StoreFeeder:
    """See `ringfence_audit.stream.Feeder`."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store

    def read(self, work: Callable[[Connection], list[Sent]]) -> list[Sent]:
        return self._store.read_now(work)

    def write(self, work: Callable[[Transaction], None]) -> None:
        asyncio.run(self._store.write(work))


def make_feed(
    store: SqlStore,
    name: str,
    address: str,
    *,
    form: Form,
    token: str = "",
    sleep: Callable[[float], None] = time.sleep,
) -> Feed:
    """Raises `InvalidCollector`."""
    collector = make_collector(address, form=form, origin=LOG_ORIGIN, token=token)
    return Feed(name, StoreFeeder(store), collector, sleep=sleep)


@contextmanager
def locked(settings: Settings, name: str) -> Iterator[None]:
    """Only one process feeds a collector. Raises `Mistake` for a bad name and `Unavailable` where another one does."""
    if not _NAME.match(name):
        raise Mistake(f"{name[:60]!r} cannot name a feed", fix="Use lower-case letters, digits and dashes")
    descriptor = os.open(settings.home / f"stream-{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise Unavailable(
            f"another process feeds {name}", fix="End it first, or give this feed another name"
        ) from error
    finally:
        os.close(descriptor)
