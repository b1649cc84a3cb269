"""A SIEM receives every entry once and in order, also where it was down for a while; the auditor gets one page."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ringfence.errors import Mistake, Unavailable
from ringfence.feeding import locked, make_feed
from ringfence.local_store import open_store
from ringfence.reporting import report_as_of, write_report
from ringfence.settings import Settings
from ringfence.verifying import own_key
from ringfence_audit import offline
from ringfence_audit.collectors import InvalidCollector, make_collector
from ringfence_audit.events import Event, JsonValue, Kind
from ringfence_audit.facts import Entry
from ringfence_audit.store import SqlStore
from ringfence_audit.stream import CollectorDown, Sent, cursor, lag
from tests.integration.audit.logs import call_events, open_log, run_events, write


class Siem:
    """A collector that is down as often as it is told to be, and remembers what it took."""

    def __init__(self, answers: list[int]) -> None:
        self.answers = answers
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.reply = b"{}"

    @contextmanager
    def listening(self) -> Iterator[str]:
        siem = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = siem.answers.pop(0) if siem.answers else 200
                if status == 200:
                    siem.bodies.append(body)
                    siem.headers.append(dict(self.headers))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(siem.reply)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{http.server_address[1]}"
        finally:
            http.shutdown()
            http.server_close()
            thread.join()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    with open_log(tmp_path / "log.db") as store:
        write(store, run_events("r1", 600))
        yield store


def test_a_collector_that_was_down_under_load_receives_every_entry_once(store: SqlStore) -> None:
    siem = Siem([503, 503, 200, 500, 503, 503])
    pauses: list[float] = []

    def nap(seconds: float) -> None:
        pauses.append(seconds)
        write(store, call_events("r2", len(pauses)))

    with siem.listening() as address:
        feed = make_feed(store, "siem", f"http://{address}/in", form="plain", token="secret", sleep=nap)
        assert feed.drain() == 1_202 + 10
        assert feed.drain() == 0
    positions = [json.loads(line)["position"] for body in siem.bodies for line in body.splitlines()]
    assert positions == list(range(1_212))
    assert pauses == [0.5, 1.0, 0.5, 1.0, 2.0]
    assert store.read_now(lambda c: lag(c, "siem")).entries == 0
    assert siem.headers[0]["Authorization"] == "Bearer secret"


def test_a_feed_goes_on_from_its_cursor_and_says_how_far_it_is_behind(store: SqlStore) -> None:
    behind = store.read_now(lambda c: lag(c, "siem"))
    assert (behind.entries, behind.oldest is not None) == (1_202, True)
    siem = Siem([])
    with siem.listening() as address:
        make_feed(store, "siem", f"http://{address}", form="plain").drain()
        write(store, call_events("r2", 0))
        assert make_feed(store, "siem", f"http://{address}", form="plain").drain() == 2
        assert make_feed(store, "other", f"http://{address}", form="plain").drain() == 1_204
    assert store.read_now(lambda c: cursor(c, "siem")) == 1_204


def test_opentelemetry_records_carry_the_conventions_names(store: SqlStore) -> None:
    siem = Siem([])
    with siem.listening() as address:
        make_feed(store, "otel", f"otlp+http://{address}", form="plain").drain()
    records = [
        record
        for body in siem.bodies
        for resource in json.loads(body)["resourceLogs"]
        for scope in resource["scopeLogs"]
        for record in scope["logRecords"]
    ]
    assert len(records) == 1_202
    named = {item["key"]: item["value"] for item in records[2]["attributes"]}
    assert named["gen_ai.operation.name"] == {"stringValue": "execute_tool"}
    assert named["ringfence.position"] == {"intValue": "2"}
    assert json.loads(records[2]["body"]["stringValue"])["event"]["kind"] == "call.outcome"


def test_an_otlp_collector_that_rejects_records_has_not_taken_them(store: SqlStore) -> None:
    siem = Siem([])
    siem.reply = b'{"partialSuccess": {"rejectedLogRecords": "3"}}'
    naps: list[float] = []

    def give_in(seconds: float) -> None:
        naps.append(seconds)
        siem.reply = b"{}"

    with siem.listening() as address:
        assert make_feed(store, "otel", f"otlp+http://{address}", form="ocsf", sleep=give_in).drain() == 1_202
    assert naps == [0.5]


def test_syslog_frames_are_whole_and_taken_only_when_the_collector_has_read_them(store: SqlStore) -> None:
    received: list[bytes] = []

    class Reader(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            received.append(self.rfile.read())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Reader) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        assert (
            make_feed(store, "syslog", f"syslog+tcp://127.0.0.1:{server.server_address[1]}", form="ocsf").drain()
            == 1_202
        )
        server.shutdown()
    messages: list[bytes] = []
    for stream in received:
        while stream:
            length, _, stream = stream.partition(b" ")
            messages.append(stream[: int(length)])
            stream = stream[int(length) :]
    assert len(messages) == 1_202
    assert messages[0].startswith(b"<109>1 ")
    assert json.loads(messages[9].split(b" - ", 1)[1])["class_uid"] == 6003


def test_a_syslog_collector_that_dies_while_reading_is_down(store: SqlStore) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def slam() -> None:
            peer, _ = server.accept()
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            peer.close()

        thread = threading.Thread(target=slam, daemon=True)
        thread.start()
        address = f"syslog+tcp://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(RuntimeError, match="waited"):
            make_feed(store, "syslog", address, form="plain", sleep=_give_up).drain()
        thread.join()
    assert store.read_now(lambda c: cursor(c, "syslog")) == 0


def _give_up(_: float) -> None:
    raise RuntimeError("waited")


def test_a_collector_that_does_not_answer_is_down() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    collector = make_collector(f"http://127.0.0.1:{port}", form="plain", origin="x")
    with pytest.raises(CollectorDown, match="does not answer"):
        collector.send(_one_batch())


def _one_batch() -> list[Sent]:
    entry = Entry(0, "audit.gap", "system:x", "", "", "r", 0, None, datetime(2026, 1, 1, tzinfo=UTC), {})
    return [Sent(entry, b"{}")]


@pytest.mark.parametrize("address", ["", "x", "ftp://a", "http://", "syslog+tcp://host", "http://user@host/"])
def test_an_address_that_cannot_be_used_is_refused(address: str) -> None:
    with pytest.raises(InvalidCollector):
        make_collector(address, form="plain", origin="x")


def test_one_process_feeds_a_collector_at_a_time(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, config=tmp_path)
    with locked(settings, "siem"):
        with pytest.raises(Unavailable), locked(settings, "siem"):
            pass
        with locked(settings, "other"):
            pass
    with pytest.raises(Mistake), locked(settings, "../x"):
        pass


# -- the auditor's page ---------------------------------------------------------------------------------------------


def ask(number: int, *, by: str, person: str, state: str = "approved") -> list[Event]:
    terms: JsonValue = {"any_of": ["lead"], "all_of": [], "four_eyes": False}
    asked: dict[str, JsonValue] = {"escalation": number, "digest": "aa", "terms": terms, "policy_version": "1"}
    vote: dict[str, JsonValue] = {"escalation": number, "digest": "aa", "verdict": "approve", "groups": ["lead"]}
    settled: dict[str, JsonValue] = {"escalation": number, "digest": "aa", "state": state}
    return [
        Event(Kind.ESCALATION, "agent:r1", asked, "r1", f"r1/{number}/0", person),
        Event(Kind.VOTE, by, vote, "r1", f"r1/{number}/0"),
        Event(Kind.SETTLED, by, settled, "r1", f"r1/{number}/0"),
    ]


def test_the_page_answers_what_an_auditor_asks(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", config=tmp_path / "config")
    later = int((datetime.now(UTC) + timedelta(days=1)).timestamp() * 1_000_000)
    with open_store(settings) as store:
        places: dict[str, JsonValue] = {"what": "person.places", "person": "ben", "groups": ["core:lead"], "roles": []}
        write(store, [Event(Kind.LOGIN, "person:root", places)])
        write(store, run_events("r1", 10))
        write(store, [*ask(1, by="person:ben", person="person:ana"), *ask(2, by="person:ana", person="person:ana")])
        for name, uses in (("g-live", 2), ("g-used", 1), ("g-gone", None)):
            given: dict[str, JsonValue] = {"grant": name, "tool": "shell", "uses": uses, "expires_at": later}
            write(store, [Event(Kind.GRANT_GIVEN, "person:ben", given, "r1")])
        write(store, [Event(Kind.GRANT_USED, "agent:r1", {"grant": "g-used"}, "r1")])
        write(store, [Event(Kind.GRANT_REVOKED, "person:ben", {"grant": "g-gone"}, "r1")])
        moment = datetime.now(UTC)
        write(store, [Event(Kind.GRANT_GIVEN, "person:ben", {"grant": "g-after", "expires_at": later}, "r1")])
        write(store, [Event(Kind.KEY, "person:\x1b[31mred", {"action": "in use"})])
        page = report_as_of(settings, store, moment)
        evidence = write_report(store, page, moment, tmp_path / "page.txt", actor="person:eve")
        key = str(own_key(settings))
    assert "person:ben: core:lead" in page
    assert "person:ana approved E-2, asked on their behalf" in page
    assert "g-live: shell in r1" in page
    assert "g-used" not in page and "g-gone" not in page and "g-after" not in page
    assert "rule rule-0: 1" in page
    assert "Refusals: 4" in page
    assert "\x1b" not in page
    assert "— ringfence.local/log" in page
    check = [str(evidence), "--key", key, "--report", str(tmp_path / "page.txt")]
    assert offline.main(check) == 0
    (tmp_path / "page.txt").write_text(page.replace("g-live", "g-lie"))
    assert offline.main(check) == 8
    with pytest.raises(Mistake), open_store(settings) as store:
        write_report(store, page, moment, tmp_path / "page.txt", actor="person:eve")
