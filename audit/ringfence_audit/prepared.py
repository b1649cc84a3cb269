"""Statements for hot paths: compiled once for each kind of database, then run by the driver itself.

SQLAlchemy spends several times more on preparing a small statement than the database on running it. Here the compiled
text is kept and only values travel. For plain columns (text, integers) and fixed statements: no expanding lists, no
types that convert. Errors are the driver's own; the store knows them.
"""

from __future__ import annotations

import re
import sqlite3
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from functools import cache
from itertools import chain
from typing import Any

from sqlalchemy import Connection, Executable
from sqlalchemy.sql.dml import Insert

_ROWS_AT_ONCE = 32
_ONE_ROW = re.compile(r"VALUES (\(\?(?:, \?)*\))")

# Any: rows and the driver's connection are as untyped as SQLAlchemy's own.
Values = Mapping[str, Any]


class Prepared:
    """One statement. Safe to share between threads and connections; an insert must name its columns.

    Rows come as named tuples of the selected columns.
    """

    def __init__(self, statement: Executable, *, columns: Sequence[str] = ()) -> None:
        self._statement = statement
        self._columns = columns
        self._compiled: dict[str, _Compiled] = {}

    def all(self, connection: Connection, values: Values) -> list[Any]:
        """Every row."""
        compiled = self._for(connection)
        return list(map(compiled.make, compiled.run(connection, values).fetchall()))

    def first(self, connection: Connection, values: Values) -> Any | None:
        """The first row, or None."""
        compiled = self._for(connection)
        row = compiled.run(connection, values).fetchone()
        return None if row is None else compiled.make(row)

    def change(self, connection: Connection, values: Values) -> int:
        """Run an update, insert or delete; return how many rows it touched."""
        return int(self._for(connection).run(connection, values).rowcount)

    def many(self, connection: Connection, rows: Iterable[Values]) -> None:
        """Run an update, insert or delete for each of `rows`."""
        compiled = self._for(connection)
        driver = connection.connection.driver_connection
        compiled.many(driver, [compiled.bind(values) for values in rows])

    def _for(self, connection: Connection) -> _Compiled:
        name = connection.dialect.name
        compiled = self._compiled.get(name)
        if compiled is None:
            compiled = self._compiled[name] = _Compiled(self._statement, connection, self._columns)
        return compiled


class _Compiled:
    def __init__(self, statement: Executable, connection: Connection, columns: Sequence[str]) -> None:
        dialect = connection.dialect
        keys = list(columns) if isinstance(statement, Insert) and columns else None
        # Any: `compile` is declared for any clause; of an executable one it gives a SQLCompiler.
        compiled: Any = statement.compile(dialect=dialect, column_keys=keys)  # type: ignore[attr-defined]
        self.text = str(compiled)
        if "POSTCOMPILE" in self.text:
            raise TypeError("a prepared statement cannot hold a list; name the values one by one")
        self._defaults: Values = {key: value for key, value in compiled.params.items() if value is not None}
        self._order: Sequence[str] | None = compiled.positiontup
        self._is_insert = isinstance(statement, Insert)
        selected = getattr(statement, "selected_columns", None)
        names = [column.key for column in selected] if selected is not None else []
        # Any: a namedtuple's fields are known only here, from the statement.
        row: Any = namedtuple("PreparedRow", names)  # type: ignore[misc]
        self.make: Callable[[Iterable[Any]], Any] = row._make

    def bind(self, values: Values) -> Any:
        """The values as the driver wants them: in order where it counts, by name where it names."""
        whole = {**self._defaults, **values} if self._defaults else values
        return whole if self._order is None else tuple([whole[name] for name in self._order])

    def run(self, connection: Connection, values: Values) -> Any:
        # Any: the cursor of whichever driver it is.
        driver: Any = connection.connection.driver_connection
        return driver.execute(self.text, self.bind(values))

    def many(self, driver: Any, rows: Sequence[Any]) -> None:
        if self._is_insert and isinstance(driver, sqlite3.Connection):
            insert_rows(driver, self.text, rows)
            return
        with closing(driver.cursor()) as cursor:
            cursor.executemany(self.text, rows)


def insert_rows(driver: sqlite3.Connection, text: str, rows: Sequence[Sequence[object]]) -> None:
    """Run an insert of one row for each of `rows`, many rows to a statement.

    SQLite's driver gives up the interpreter's lock at every row of an `executemany`, and gets it back when the event
    loop's thread lets go of it.
    """
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        chunk = rows[start : start + _ROWS_AT_ONCE]
        driver.execute(_of_rows(text, len(chunk)), list(chain.from_iterable(chunk)))


@cache
def _of_rows(text: str, count: int) -> str:
    found = _ONE_ROW.search(text)
    if found is None:
        raise TypeError(f"this is no insert of one row: {text}")
    return f"{text[: found.end()]}{f', {found[1]}' * (count - 1)}{text[found.end() :]}"
