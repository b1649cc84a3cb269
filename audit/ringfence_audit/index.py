"""The index plane: everything in it is derived from the evidence, lies in SQLite files of its own, and can be thrown
away. It is never asked what happened, only where to look; answers are read from the evidence.

Words are interned as integers. A row an entry holds the dimensions that have one word; the others are postings. Full
text is a contentless FTS5 table in a second file. One process builds at a time (a lock in the file); any may read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection

from ringfence_audit.bodies import restore
from ringfence_audit.errors import AuditError
from ringfence_audit.events import JsonValue, Kind
from ringfence_audit.facts import Entry, parse_entry
from ringfence_audit.index_rows import COLUMNS, VERSION, Row, row_of, text_of
from ringfence_audit.merkle import leaf_hash
from ringfence_audit.scan import rows_of

CHUNK = 4_000
_BUSY_S = 30.0
_KEPT_WORDS = 500_000
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS word (
    id INTEGER PRIMARY KEY, dimension TEXT NOT NULL, word TEXT NOT NULL, n INTEGER NOT NULL DEFAULT 0,
    UNIQUE (dimension, word)
);
CREATE TABLE IF NOT EXISTS entry (
    position INTEGER PRIMARY KEY, time INTEGER NOT NULL, refused INTEGER NOT NULL,
    {", ".join(f"{name} INTEGER" for name in COLUMNS)}
);
CREATE TABLE IF NOT EXISTS posting (
    word INTEGER NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (word, position)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS entry_run ON entry (run);
CREATE INDEX IF NOT EXISTS entry_task ON entry (task);
CREATE INDEX IF NOT EXISTS entry_agent ON entry (agent);
CREATE INDEX IF NOT EXISTS entry_kind ON entry (kind);
CREATE INDEX IF NOT EXISTS entry_tool ON entry (tool);
CREATE INDEX IF NOT EXISTS entry_refused ON entry (agent, tool) WHERE refused = 1;
CREATE INDEX IF NOT EXISTS entry_refused_task ON entry (task) WHERE refused = 1;
CREATE INDEX IF NOT EXISTS entry_unusual ON entry (outcome) WHERE refused = 1;
"""
_TEXT_SCHEMA = """
CREATE TABLE IF NOT EXISTS words.meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE VIRTUAL TABLE IF NOT EXISTS words.body USING fts5 (
    text, content = '', detail = none, columnsize = 0, tokenize = "unicode61 remove_diacritics 0"
);
"""


class IndexDamaged(AuditError):
    """The index cannot be read: build it anew with `ringfence audit index rebuild`."""


class Index:
    """An open index. `path` is the first file, the text lies in `NAME-text`. Use it from one thread at a
    time; close it."""

    def __init__(self, path: Path, *, fetch: Callable[[str], bytes | None] | None = None) -> None:
        """`fetch` gives large values by digest, so that their text can be searched too. Raises `IndexDamaged`."""
        self.path = path
        self._fetch = fetch
        self._ids: dict[tuple[str, str], int] = {}
        self._tasks: dict[str, str] = {}
        try:
            self.raw = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_S, check_same_thread=False)
            path.chmod(0o600)
            text = path.with_name(f"{path.name}-text")
            self.raw.execute("ATTACH ? AS words", (str(text),))
            text.chmod(0o600)
            for schema in ("main", "words"):
                self.raw.execute(f"PRAGMA {schema}.journal_mode = WAL")
                self.raw.execute(f"PRAGMA {schema}.synchronous = NORMAL")
            self.raw.execute("PRAGMA cache_size = -65536")
            self.raw.execute("PRAGMA mmap_size = 1073741824")
            if self._get("version") != VERSION:
                self.clear()
        except (sqlite3.Error, OSError) as error:
            raise IndexDamaged(f"the index {path} cannot be opened ({error}): remove it, it is derived") from error

    def close(self) -> None:
        self.raw.close()

    def clear(self) -> None:
        """Throw everything away. The next `catch_up` builds it anew."""
        with self._writing():
            for table in ("meta", "word", "entry", "posting"):
                self.raw.execute(f"DROP TABLE IF EXISTS {table}")
            self.raw.execute("DROP TABLE IF EXISTS words.meta")
            self.raw.execute("DROP TABLE IF EXISTS words.body")
            for statement in (*_SCHEMA.split(";"), *_TEXT_SCHEMA.split(";")):
                self.raw.execute(statement)
            self._set("version", VERSION)
        self._ids.clear()
        self._tasks.clear()

    @property
    def next(self) -> int:
        """The position up to which entries are indexed."""
        return self._number("next")

    def catch_up(self, connection: Connection, *, limit: int | None = None) -> int:
        """Index what came since, in chunks that each commit; at most `limit` entries. Returns how many.

        Where the indexed part is not a part of this log (it was restored, or is another one), everything is built
        anew. Raises `IndexDamaged`.
        """
        try:
            self._check_identity(connection)
            done = 0
            while limit is None or done < limit:
                count = self._index_chunk(connection, CHUNK if limit is None else min(CHUNK, limit - done))
                done += count
                if count == 0:
                    return done
            return done
        except sqlite3.Error as error:
            raise IndexDamaged(f"the index cannot be written ({error}): remove {self.path}, it is derived") from error

    def _check_identity(self, connection: Connection) -> None:
        last = self.next - 1
        if last < 0:
            return
        found = next(iter(rows_of(connection, last, last + 1)), None)
        raw = None if found is None else found[1]
        leaf = leaf_hash(raw).hex() if isinstance(raw, bytes) else None
        if found is None or (leaf is not None and leaf != self._get("leaf")):
            self.clear()

    def _index_chunk(self, connection: Connection, count: int) -> int:
        with self._writing():
            # A crash between the two files' commits leaves one ahead; each goes on from where it is.
            start, text_start = self.next, self._number("words.next")
            first = min(start, text_start)
            rows: list[Row] = []
            bodies: list[tuple[int, str]] = []
            last: bytes | None = None
            end = first
            for position, raw in rows_of(connection, first, first + count):
                end = position + 1
                if not isinstance(raw, bytes):
                    continue
                entry = parse_entry(position, raw)
                if position >= start:
                    rows.append(row_of(entry, self._task_of(entry)))
                if position >= text_start:
                    bodies.append((position, text_of(self._whole(entry, raw))))
                last = raw
            if end == first:
                return 0
            self._insert(rows)
            self.raw.executemany("INSERT INTO words.body (rowid, text) VALUES (?, ?)", bodies)
            self._set("next", max(end, start))
            self._set("words.next", max(end, text_start))
            if last is not None:
                self._set("leaf", leaf_hash(last).hex())
            return end - first

    def _whole(self, entry: Entry, raw: bytes) -> Mapping[str, JsonValue]:
        if self._fetch is None or b'{"$blob":' not in raw:
            return entry.data
        try:
            whole = restore(entry.data, self._fetch)
        except AuditError:
            return entry.data  # a damaged body is verify's to name; search goes on without it
        return whole if isinstance(whole, Mapping) else entry.data

    def _insert(self, rows: list[Row]) -> None:
        seen: dict[int, int] = {}
        entries: list[tuple[int | None, ...]] = []
        postings: list[tuple[int, int]] = []
        for row in rows:
            ids = [
                None if word is None else self._id(name, word) for name, word in zip(COLUMNS, row.words, strict=True)
            ]
            entries.append((row.position, row.time_us, int(row.is_refused), *ids))
            more = [self._id(dimension, word) for dimension, word in row.more]
            postings += [(id_, row.position) for id_ in more]
            for id_ in (*ids, *more):
                if id_ is not None:
                    seen[id_] = seen.get(id_, 0) + 1
        marks = ", ".join("?" * (len(COLUMNS) + 3))
        self.raw.executemany(f"INSERT INTO entry VALUES ({marks})", entries)  # noqa: S608  # marks only
        self.raw.executemany("INSERT OR IGNORE INTO posting VALUES (?, ?)", sorted(postings))
        self.raw.executemany("UPDATE word SET n = n + ? WHERE id = ?", [(n, id_) for id_, n in seen.items()])

    def _id(self, dimension: str, word: str) -> int:
        key = (dimension, word)
        known = self._ids.get(key)
        if known is not None:
            return known
        if len(self._ids) > _KEPT_WORDS:
            self._ids.clear()
        found = self.id_of(dimension, word)
        if found is None:
            cursor = self.raw.execute("INSERT INTO word (dimension, word) VALUES (?, ?)", key)
            found = int(cursor.lastrowid or 0)
        self._ids[key] = found
        return found

    def id_of(self, dimension: str, word: str) -> int | None:
        """The number of a word, None where no entry has it."""
        query = "SELECT id FROM word WHERE dimension = ? AND word = ?"
        found = self.raw.execute(query, (dimension, word)).fetchone()
        return None if found is None else int(found[0])

    def _task_of(self, entry: Entry) -> str | None:
        if entry.kind == Kind.RUN_OPENED:
            task = entry.data.get("task")
            if isinstance(task, str) and task:
                self._tasks[entry.run] = task
                return task
        if entry.run not in self._tasks:
            if len(self._tasks) > _KEPT_WORDS:
                self._tasks.clear()
            self._tasks[entry.run] = self._stored_task(entry.run)
        return self._tasks[entry.run] or None

    def _stored_task(self, run: str) -> str:
        query = (
            "SELECT word FROM word WHERE id = (SELECT task FROM entry WHERE task IS NOT NULL AND run = "
            "(SELECT id FROM word WHERE dimension = 'run' AND word = ?) LIMIT 1)"
        )
        found = self.raw.execute(query, (run,)).fetchone()
        return "" if found is None else str(found[0])

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self.raw.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.raw.execute("COMMIT")
        finally:
            if self.raw.in_transaction:
                self.raw.execute("ROLLBACK")
                self._ids.clear()
                self._tasks.clear()

    def _number(self, name: str) -> int:
        value = self._get(name)
        return value if isinstance(value, int) else 0

    def _get(self, name: str) -> object:
        schema, _, key = name.rpartition(".")
        table = f"{schema}.meta" if schema else "main.meta"
        where = f"{schema or 'main'}.sqlite_master"
        if self.raw.execute(f"SELECT 1 FROM {where} WHERE name = 'meta'").fetchone() is None:  # noqa: S608  # our names
            return None
        found = self.raw.execute(f"SELECT value FROM {table} WHERE name = ?", (key,)).fetchone()  # noqa: S608  # as above
        return None if found is None else found[0]

    def _set(self, name: str, value: int | str) -> None:
        schema, _, key = name.rpartition(".")
        table = f"{schema}.meta" if schema else "main.meta"
        self.raw.execute(f"INSERT OR REPLACE INTO {table} (name, value) VALUES (?, ?)", (key, value))  # noqa: S608  # as above
