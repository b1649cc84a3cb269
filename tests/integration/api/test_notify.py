"""Notifications against real receivers on loopback: signed, tried again, told once, and never after the decision."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from sqlalchemy import select

from ringfence.errors import Mistake
from ringfence.notify.notifier import Notifier
from ringfence.notify.routes import NotifyFile, Route, Smtp, read_routes
from ringfence.notify.schema import notifications
from ringfence_audit.port import Transaction
from ringfence_tools import review
from ringfence_tools.calls import EscalationId
from ringfence_tools.people import Person
from tests.integration.api.world import HARMLESS, HIDING, World


@dataclass
class Receiver:
    """`answers` are the statuses of the next requests, then 200."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(receiver.answers.pop(0) if receiver.answers else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_port}/hook"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield receiver
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def mailbox() -> Iterator[tuple[int, list[str]]]:
    """A small SMTP server (RFC 5321) that keeps what it is given."""
    kept: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 sink.example\r\n")
            while line := self.rfile.readline():
                verb = line.strip().upper()[:4]
                if verb == b"DATA":
                    self.wfile.write(b"354 go on\r\n")
                    lines = []
                    while (part := self.rfile.readline()) != b".\r\n":
                        lines.append(part.decode())
                    kept.append("".join(lines))
                self.wfile.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 ok\r\n")
                if verb == b"QUIT":
                    return

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_address[1], kept
    server.shutdown()
    thread.join()
    server.server_close()


def hook(receiver: Receiver, **more: object) -> NotifyFile:
    form = {"name": "leads", "team": "billing", "groups": ["team-lead"], "webhook": receiver.url, "secret": "env:HOOK"}
    return NotifyFile.model_validate({"routes": [{**form, **more}]})


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", "a shared secret")


@pytest.mark.parametrize(
    "text",
    [
        "routes: [{name: a}]",
        "routes: [{name: a, webhook: 'https://x.example'}]",
        "routes: [{name: a, slack: 'http://x.example'}]",
        "routes: [{name: a, email: [a@example.org]}]",
        "routes: [{name: a, slack: 'https://x.example', colour: red}]",
        "routes: [",
    ],
)
def test_a_file_that_could_not_work_is_refused_with_its_place(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notify.yaml"
    path.write_text(text)
    with pytest.raises(Mistake, match=r"notify\.yaml"):
        read_routes(path)
    assert read_routes(tmp_path / "none.yaml") == NotifyFile()


async def test_what_was_decided_before_it_was_due_is_not_sent(world: World, receiver: Receiver) -> None:
    notifier = Notifier(world.house, hook(receiver, after="2h"))
    assert await notifier.look() == 0
    ben = Person("ben", frozenset({"team-lead"}))

    def deny_all(tx: Transaction) -> None:
        for number in (HARMLESS, HIDING, 8):
            review.deny(tx, EscalationId(number), ben)

    await world.store.write(deny_all)
    later = replace(world.house, clock=lambda: datetime.now(UTC) + timedelta(hours=3))
    assert await Notifier(later, hook(receiver, after="2h")).look() == 0
    assert receiver.got == []


async def test_a_webhook_is_signed_tried_again_under_the_same_id_and_told_once(
    world: World, receiver: Receiver
) -> None:
    receiver.answers = [500, 500, 500]
    notifier = Notifier(world.house, hook(receiver))
    assert await notifier.look() == 0
    await world.store.write(lambda tx: tx.connection.execute(notifications.update().values(due_at=0)))
    assert await notifier.look() == 3
    await world.store.write(lambda tx: tx.connection.execute(notifications.update().values(due_at=0)))
    assert await notifier.look() == 0
    ids = [headers["webhook-id"] for headers, _ in receiver.got]
    assert len(ids) == 6
    assert sorted(ids[:3]) == sorted(ids[3:])
    headers, body = receiver.got[-1]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    mac = base64.b64encode(hmac.new(b"a shared secret", signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{mac}"
    shown = {card["escalation"]: card for _, body in receiver.got for card in json.loads(body)["cards"]}
    assert set(shown) == {HARMLESS, HIDING, 8}
    assert "[U+0456]" in shown[HIDING]["runs"]
    assert shown[HIDING]["link"] == f"{world.house.origin.text}/inbox/{HIDING}"


async def test_two_replicas_tell_once(world: World, receiver: Receiver) -> None:
    one, two = Notifier(world.house, hook(receiver)), Notifier(world.house, hook(receiver))
    await one.look()
    await two.look()
    assert len(receiver.got) == 3


async def test_a_slack_message_makes_no_mention_out_of_hostile_text(world: World, receiver: Receiver) -> None:
    file = NotifyFile(routes=(Route(name="chat", slack=receiver.url),))
    assert await Notifier(world.house, file).look() == 6
    texts = [json.loads(body)["text"] for _, body in receiver.got]
    assert all("<!channel>" not in text and "\u0456" not in text for text in texts)
    assert any("180 SPACES&gt;" in text for text in texts)


async def test_a_digest_is_one_mail_with_every_card(world: World, mailbox: tuple[int, list[str]]) -> None:
    port, kept = mailbox
    smtp = Smtp(host="127.0.0.1", port=port, sender="ringfence@example.org", tls="none")
    route = Route.model_validate({"name": "mail", "team": "billing", "email": ["ben@example.org"], "digest": "10m"})
    notifier = Notifier(world.house, NotifyFile(routes=(route,), smtp=smtp))
    assert await notifier.look() == 1
    assert await notifier.look() == 0
    assert len(kept) == 1
    assert all(f"/inbox/{number}" in kept[0] for number in (HARMLESS, HIDING, 8))
    states = await world.store.read(lambda c: c.execute(select(notifications.c.state)).scalars().all())
    assert set(states) == {"sent"}
