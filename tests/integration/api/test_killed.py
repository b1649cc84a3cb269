"""A server that is killed in the middle of a vote: afterwards the vote was cast once, with its entry, or not at all."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ringfence.auth import sessions
from ringfence.demo.seed import seed
from ringfence.local_store import open_store
from ringfence.settings import Settings
from ringfence_audit.query import Filter, query
from ringfence_tools import escalations
from ringfence_tools.calls import EscalationId
from ringfence_tools.escalations import EscalationState
from tests.integration.api.world import HARMLESS


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    asyncio.run(seed(Settings(home=folder, config=folder / "config")))
    return folder


@pytest.fixture
def server(home: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "RINGFENCE_HOME": str(home), "RINGFENCE_CONFIG": str(home / "config")}
    command = [sys.executable, "-m", "ringfence", "serve", "--no-worker", "--port", str(port)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            httpx.get(f"http://127.0.0.1:{port}/healthz")
            break
        except httpx.TransportError:
            time.sleep(0.05)
    yield process, port
    process.kill()
    process.wait()


def test_a_vote_is_whole_or_was_never_cast(home: Path, server: tuple[subprocess.Popen[bytes], int]) -> None:
    process, port = server
    settings = Settings(home=home, config=home / "config")
    with open_store(settings) as store:
        secret = asyncio.run(store.write(lambda tx: sessions.open_session(tx, "ben", how="test", address="127.0.0.1")))
        card = store.read_now(lambda c: escalations.get(c, EscalationId(HARMLESS)))
    url = f"http://127.0.0.1:{port}"
    headers = {"cookie": f"ringfence={secret}", "origin": url, "idempotency-key": "the-vote"}
    body = {"verdict": "approve", "digest": card.digest}
    answers: list[int] = []

    def press() -> None:
        try:
            answer = httpx.post(f"{url}/api/v1/escalations/{HARMLESS}/votes", json=body, headers=headers)
            answers.append(answer.status_code)
        except httpx.TransportError:
            return

    reviewers = [threading.Thread(target=press) for _ in range(4)]
    for reviewer in reviewers:
        reviewer.start()
    process.send_signal(signal.SIGKILL)
    for reviewer in reviewers:
        reviewer.join()
    with open_store(settings) as store:
        state = store.read_now(lambda c: escalations.get(c, card.id)).state
        cast = store.read_now(lambda c: escalations.votes_of(c, card.id))
        call = str(card.key)
        entries = store.read_now(lambda c: query(c, Filter(kind="escalation.vote", call=call))).entries
    assert len(cast) == len(entries) <= 1
    assert (state is EscalationState.APPROVED) == (len(cast) == 1)
    assert not answers or 201 not in answers or len(cast) == 1
