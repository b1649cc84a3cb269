"""Questions to the log of this machine, through its index: kept up to date on the way, and recorded as entries.

`ask` is what a page needs, `every` what an export or a report walks. API and console use them as the commands do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ringfence.settings import Settings
from ringfence_audit.events import Event, Kind
from ringfence_audit.facts import Entry
from ringfence_audit.index import Index
from ringfence_audit.query import Filter, Page, PageRequest
from ringfence_audit.search import matching, search
from ringfence_audit.store import SqlStore

FOLLOW_S = 0.5


@contextmanager
def open_index(settings: Settings, store: SqlStore) -> Iterator[Index]:
    """This machine's index. It is derived: removing its files costs nothing but the time to build it anew."""

    def fetch(digest: str) -> bytes | None:
        return store.read_now(lambda connection: store.blobs.get(digest, connection))

    index = Index(settings.index_file, fetch=fetch)
    try:
        yield index
    finally:
        index.close()


def question(actor: str, wanted: Filter) -> Event:
    """The entry that an auditor's question leaves; record it before the answer is shown."""
    return Event(Kind.QUERY, actor, {"filter": wanted.to_json()})


def ask(index: Index, store: SqlStore, wanted: Filter, page: PageRequest) -> Page:
    """One page, no older than this call."""
    store.read_now(index.catch_up)
    return store.read_now(lambda connection: search(index, connection, wanted, page))


def every(index: Index, store: SqlStore, wanted: Filter) -> list[Entry]:
    """The whole answer, oldest first."""
    store.read_now(index.catch_up)
    return store.read_now(lambda connection: list(matching(index, connection, wanted)))


def follow(
    index: Index, store: SqlStore, wanted: Filter, *, after: int, sleep: Callable[[float], None] = time.sleep
) -> Iterator[Entry]:
    """Entries that answer, as they are written, beginning behind position `after`. Never ends by itself."""
    while True:
        page = ask(index, store, wanted, PageRequest(500, after, oldest_first=True))
        yield from page.entries
        if page.entries:
            after = page.entries[-1].position
        else:
            after = max(after, index.next - 1)
            sleep(FOLLOW_S)
