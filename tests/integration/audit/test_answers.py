"""`ringfence audit` as a person types it, over a log of this machine, and the forms that others read."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ringfence.cli import app
from ringfence.errors import Mistake
from ringfence.formats import Told, lines_of
from ringfence.local_store import open_store
from ringfence.searching import follow, open_index
from ringfence.settings import Settings
from ringfence_audit.events import Event, Kind
from ringfence_audit.facts import parse_entry
from ringfence_audit.mapping import to_attributes, to_ocsf
from ringfence_audit.merkle import leaf_hash
from ringfence_audit.query import Filter, raw_of
from tests.integration.audit.logs import call_events, run_events, write


class Machine:
    """A person's machine with a log, and commands typed at it."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(home=folder / "home", config=folder / "config")
        with open_store(self.settings) as store:
            write(store, [*run_events("r1", 12), *run_events("r2", 3, task="t2")])
            hostile = Event(
                Kind.CONTROL, "person:=cmd|' /C calc'!A0", {"note": "\x1b[31m=1+1\u202e", "verdict": "deny"}, "r2"
            )
            write(store, [hostile])

    def types(self, *words: str) -> Result:
        environment = {"RINGFENCE_HOME": str(self.settings.home), "RINGFENCE_CONFIG": str(self.settings.config)}
        return CliRunner().invoke(app, ["audit", *words], env={**environment, "COLUMNS": "200", "NO_COLOR": "1"})

    def records(self, *words: str) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.types(*words, "--json").stdout.splitlines()]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    yield Machine(tmp_path_factory.mktemp("machine"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["query", "--since", "yesterday"], "is not a time"),
        (["query", "--format", "xml"], "is no format"),
        (["query", "--format", "parquet"], "Parquet is no text"),
        (["export", "--run", "absent", "--out", "x.jsonl"], "holds nothing like that"),
        (["verify", "--key", "nonsense"], "cannot be read as text"),
        (["verify", "--anchor", "absent"], "cannot be read as text"),
        (["verify", "--file", "absent.db"], "there is no file absent.db"),
        (["verify", "--file", "."], "there is no file ."),
        (["export", "--run", "r1", "--out", "x.jsonl", "--checkpoint", "absent"], "cannot be read as text"),
        (["anchor"], "no anchor is configured"),
    ],
)
def test_what_cannot_be_carried_out_is_said_in_one_line(machine: Machine, words: list[str], said: str) -> None:
    done = machine.types(*words)
    assert isinstance(done.exception, Mistake)
    assert said in str(done.exception)


def test_a_question_is_itself_an_entry(machine: Machine) -> None:
    machine.records("query", "--tool", "shell", "--refused", "--limit", "3")
    asked = machine.records("query", "--kind", "audit.query")
    filters = [entry["data"]["filter"] for entry in asked if entry["type"] == "entry"]  # type: ignore[index]  # as recorded
    assert {"tool": "shell", "refused": "yes"} in filters


def test_pages_go_on_where_the_last_one_ended(machine: Machine) -> None:
    first = machine.records("query", "--run", "r1", "--limit", "20")
    assert first[-1]["type"] == "page"
    second = machine.records("query", "--run", "r1", "--limit", "20", "--after", str(first[-1]["next"]))
    positions = [entry["position"] for entry in (*first, *second) if entry["type"] == "entry"]
    assert positions == list(range(25, -1, -1))


def test_a_task_and_a_story_are_found(machine: Machine) -> None:
    assert len(machine.records("query", "--task", "t2", "--limit", "100")) == 9
    assert [entry["n"] for entry in machine.records("story", "r1")] == list(range(26))


def test_hostile_text_does_not_reach_the_terminal(machine: Machine) -> None:
    shown = machine.types("query", "--kind", "control").stdout
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_a_spreadsheet_executes_nothing(machine: Machine, tmp_path: Path) -> None:
    out = tmp_path / "votes.csv"
    assert machine.types("query", "--run", "r2", "--format", "csv", "--out", str(out)).exit_code == 0
    rows = list(csv.DictReader(out.open(newline="")))
    assert len(rows) == 9
    assert rows[-1]["actor"].startswith("person:")
    cells = [cell for row in rows for cell in row.values()]
    assert not any(cell.startswith(("=", "+", "-", "@", "\t")) for cell in cells)
    assert machine.types("query", "--format", "csv", "--out", str(out)).exit_code != 0


@pytest.mark.parametrize("form", ["json", "jsonl", "ocsf"])
def test_every_form_holds_the_whole_answer(machine: Machine, tmp_path: Path, form: str) -> None:
    out = tmp_path / "answer"
    machine.types("query", "--run", "r1", "--format", form, "--out", str(out))
    text = out.read_text()
    found = json.loads(text) if form == "json" else [json.loads(line) for line in text.splitlines()]
    assert len(found) == 26


def test_parquet_holds_the_whole_answer(machine: Machine, tmp_path: Path) -> None:
    from pyarrow import parquet  # type: ignore[import-untyped]  # ships no types

    out = tmp_path / "answer.parquet"
    assert machine.types("query", "--run", "r1", "--format", "parquet", "--out", str(out)).exit_code == 0
    table = parquet.read_table(str(out)).to_pylist()
    assert [row["n"] for row in table] == list(range(26))
    assert json.loads(table[0]["data"])["task"] == "t1"


def test_an_ocsf_event_names_the_bytes_that_it_was_made_from(machine: Machine) -> None:
    with open_store(machine.settings) as store:
        raw = store.read_now(lambda connection: raw_of(connection, 9))
    entry = parse_entry(9, raw)
    event = to_ocsf(entry, raw, origin="test.example/log")
    attestation = event["attestation"]
    assert isinstance(attestation, dict)
    assert attestation["fingerprint"]["value"] == leaf_hash(str(event["raw_data"]).encode()).hex()
    assert attestation["prev_event"]["fingerprint"]["value"] == entry.previous
    required = {
        "activity_id",
        "category_uid",
        "class_uid",
        "type_uid",
        "time",
        "severity_id",
        "metadata",
        "actor",
        "api",
    }
    assert required | {"src_endpoint"} <= set(event)
    assert (event["type_uid"], event["status_id"], event["severity_id"]) == (600399, 2, 2)


def test_opentelemetry_names_are_those_of_the_conventions() -> None:
    intent, outcome = call_events("r1", 4, effect="forbid")
    raws = [
        json.dumps(
            {
                "event": {
                    "actor": event.actor,
                    "call": event.call,
                    "data": dict(event.data),
                    "kind": event.kind,
                    "on_behalf_of": event.on_behalf_of,
                },
                "stream": {"id": event.run, "n": 1, "previous": "0" * 64, "time": "2026-11-24T10:00:00.000000Z"},
            }
        ).encode()
        for event in (intent, outcome)
    ]
    decided, refused = (to_attributes(parse_entry(0, raw)) for raw in raws)
    assert decided["gen_ai.operation.name"] == "execute_tool"
    assert (decided["gen_ai.tool.name"], decided["gen_ai.tool.call.id"]) == ("shell", "r1/4/0")
    assert (refused["error.type"], refused["ringfence.refused"]) == ("forbidden", True)


def test_what_is_written_from_now_on_is_followed(machine: Machine) -> None:
    naps: list[float] = []
    with open_store(machine.settings) as store, open_index(machine.settings, store) as index:
        store.read_now(index.catch_up)

        def nap(seconds: float) -> None:
            naps.append(seconds)
            write(store, call_events("r7", len(naps)))

        seen = follow(index, store, Filter(run="r7"), after=index.next - 1, sleep=nap)
        calls = [next(seen).call for _ in range(4)]
    assert calls == ["r7/1/0", "r7/1/0", "r7/2/0", "r7/2/0"]
    assert len(naps) == 2


def test_a_changed_index_is_found_by_verify_and_mended(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    assert machine.types("index", "rebuild").exit_code == 0
    assert machine.types("verify").exit_code == 0
    with open_store(machine.settings) as store, open_index(machine.settings, store) as index:
        index.raw.execute("UPDATE entry SET refused = 1 WHERE position = 3")
    done = machine.types("verify")
    assert (done.exit_code, "INDEX: entry 3" in done.stdout) == (8, True)
    assert machine.types("index", "check").exit_code == 8
    assert machine.types("index", "rebuild").exit_code == 0
    assert machine.types("verify").exit_code == 0


def test_text_forms_refuse_parquet() -> None:
    with pytest.raises(Mistake):
        list(lines_of("parquet", [Told.__new__(Told)]))


def test_an_entry_is_taken_away_with_a_proof_that_others_read(machine: Machine, tmp_path: Path) -> None:
    proof = tmp_path / "entry.tlog-proof"
    shown = machine.types("show", "9", "--proof", str(proof))
    assert shown.exit_code == 0
    head, index, *rest = proof.read_text().split("\n")
    assert (head, index) == ("c2sp.org/tlog-proof@v1", "index 9")
    assert rest[rest.index("") + 1] == "ringfence.local/log"
    assert machine.types("show", "9", "--proof", str(proof)).exit_code != 0
