from __future__ import annotations

import pytest

from tests.lints.only_the_log import LogTables, tables_of, violations
from tests.lints.sources import modules, parse

TABLES = LogTables(variables=frozenset({"entries"}), names=frozenset({"entries"}))


@pytest.mark.parametrize(
    "source",
    [
        "from ringfence_audit.schema import entries",
        "from ringfence_audit.schema import entries as e",
        "from ringfence_audit import schema\nschema.entries.insert()",
        "metadata.tables['entries']",
        "connection.exec_driver_sql('INSERT INTO entries VALUES (1)')",
        "text('delete from entries')",
        "text('SELECT * FROM entries')",
        "text('update \"entries\" set body = 1')",
    ],
)
def test_a_hand_on_the_log_is_found(source: str) -> None:
    assert len(violations([parse("ringfence_agents.planted", source)], TABLES)) == 1


def test_words_in_a_sentence_are_no_statement() -> None:
    assert violations([parse("ringfence.planted", "print('12 calls from entries of the log')")], TABLES) == []


def test_the_audit_room_may_name_its_tables() -> None:
    assert violations([parse("ringfence_audit.store", "text('DELETE FROM entries')")], TABLES) == []


def test_the_tables_are_read_from_the_audit_rooms_source() -> None:
    planted = parse("ringfence_audit.schema", "from sqlalchemy import Table\nleaves = Table('log_leaves', metadata)")
    assert tables_of([planted]) == LogTables(frozenset({"leaves"}), frozenset({"log_leaves"}))


def test_nothing_but_the_log_touches_entries_in_the_product() -> None:
    found = list(modules())
    assert violations(found, tables_of(found)) == []
