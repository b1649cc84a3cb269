"""An OpenAI-compatible model server over real HTTP, with the habits of the servers that are in use.

It knows nothing of Ringfence: it is given the turns of an AI developer and answers each request with the one that
follows the assistant messages it is shown, as a stateless server does. It counts for itself what it answered whole.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeAlias

Call: TypeAlias = tuple[str, Mapping[str, object] | str]
"""A tool's name and its arguments; a text is sent as it is."""


class Style(StrEnum):
    """How an answer travels."""

    FRAGMENTS = "fragments"
    """Arguments in small pieces under an index, as OpenAI sends them."""
    NO_INDEX = "no-index"
    """Each call whole in one chunk, `index` null."""
    ONE_INDEX = "one-index"
    """Every call whole under index 0, without an id."""
    MESSAGE = "message"
    """One JSON object, although a stream was asked for."""
    SPARSE = "sparse"
    """Keep-alive comments, content null, no usage, no id, the finish reason in a chunk without a delta."""


@dataclass(frozen=True)
class Turn:
    calls: Sequence[Call] = ()
    content: str | None = None


@dataclass(frozen=True)
class Trouble:
    """What happens to a request instead of an answer. `body` with `is_cut`: the connection breaks after it."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    kind: str = "application/json"
    is_cut: bool = False


BUSY = Trouble(429, {"retry-after": "0"}, b'{"error": {"message": "slow down", "code": "rate_limit_exceeded"}}')
BROKEN = Trouble(500, {}, b"<html>Internal Server Error</html>", "text/html")
CUT = Trouble(
    body=b'data: {"choices": [{"index": 0, "delta": {"content": "I will"}}]}\n\n', kind="text/event-stream", is_cut=True
)
STANDARD_TROUBLE = {1: BUSY, 3: BROKEN, 4: CUT}


@dataclass
class ModelServer:
    """`trouble` is by number of request, from 1. What it counted is `answered`: the calls of each whole answer."""

    turns: Sequence[Turn]
    style: Style = Style.FRAGMENTS
    trouble: Mapping[int, Trouble] = field(default_factory=dict)
    requests: list[dict[str, object]] = field(default_factory=list)
    answered: list[Sequence[Call]] = field(default_factory=list)
    base_url: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def calls(self) -> list[str]:
        """The names of every call it asked for, in order."""
        return [name for calls in self.answered for name, _ in calls]

    def take(self, body: dict[str, object]) -> tuple[int, Trouble | None]:
        """Count a request; its turn, from 0, and what troubles it."""
        messages = body["messages"]
        assert isinstance(messages, list)
        turn = sum(1 for message in messages if message["role"] == "assistant")
        with self._lock:
            self.requests.append(body)
            return turn, self.trouble.get(len(self.requests))

    def chunks(self, number: int) -> Iterator[object]:
        """The answer of a turn; the last turn stands for all that follow."""
        turn = self.turns[min(number, len(self.turns) - 1)]
        yield from _STYLES[self.style](turn, number)
        with self._lock:
            self.answered.append(turn.calls)


def _text_of(call: Call) -> str:
    return call[1] if isinstance(call[1], str) else json.dumps(call[1], ensure_ascii=False)


def _delta(delta: Mapping[str, object], finish: str | None = None) -> dict[str, object]:
    return {"id": "c1", "object": "chat.completion.chunk", "model": "coder", "choices": [
        {"index": 0, "delta": delta, "finish_reason": finish}]}  # fmt: skip


def _finish(turn: Turn) -> str:
    return "tool_calls" if turn.calls else "stop"


USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}


def _fragments(turn: Turn, number: int) -> Iterator[object]:
    yield _delta({"role": "assistant", "content": ""})
    for word in (turn.content or "").split(" "):
        yield _delta({"content": word + " "})
    for index, call in enumerate(turn.calls):
        head = {"index": index, "id": f"call_{number}_{index}", "type": "function"}
        yield _delta({"tool_calls": [{**head, "function": {"name": call[0], "arguments": ""}}]})
        text = _text_of(call)
        step = max(7, len(text) // 40)
        for at in range(0, len(text), step):
            yield _delta({"tool_calls": [{"index": index, "function": {"arguments": text[at : at + step]}}]})
    yield _delta({}, _finish(turn))
    yield {"choices": [], "usage": USAGE}


def _no_index(turn: Turn, number: int) -> Iterator[object]:
    yield _delta({"role": "assistant", "content": turn.content})
    for at, call in enumerate(turn.calls):
        function = {"name": call[0], "arguments": _text_of(call)}
        yield _delta({"tool_calls": [{"index": None, "id": f"chatcmpl-tool-{number}-{at}", "function": function}]})
    yield {**_delta({}, _finish(turn)), "usage": USAGE}


def _one_index(turn: Turn, _: int) -> Iterator[object]:
    if turn.content:
        yield _delta({"content": turn.content})
    for call in turn.calls:
        yield _delta({"tool_calls": [{"index": 0, "function": {"name": call[0], "arguments": _text_of(call)}}]})
    yield _delta({"content": ""}, _finish(turn))


def _message(turn: Turn, number: int) -> Iterator[object]:
    calls = [
        {"id": f"call_{number}_{at}", "type": "function", "function": {"name": call[0], "arguments": _text_of(call)}}
        for at, call in enumerate(turn.calls)
    ]
    message = {"role": "assistant", "content": turn.content, "tool_calls": calls}
    yield {"id": "c1", "object": "chat.completion", "model": "coder", "usage": USAGE, "choices": [
        {"index": 0, "message": message, "finish_reason": _finish(turn)}]}  # fmt: skip


def _sparse(turn: Turn, _: int) -> Iterator[object]:
    yield ": keep-alive"
    yield {"choices": [{"delta": {"role": "assistant", "content": None}}]}
    yield ": keep-alive"
    for index, call in enumerate(turn.calls):
        yield {"choices": [{"delta": {"tool_calls": [{"index": index, "function": {"name": call[0]}}]}}]}
        yield {"choices": [{"delta": {"tool_calls": [{"index": index, "function": {"arguments": _text_of(call)}}]}}]}
    if turn.content:
        yield {"choices": [{"delta": {"content": turn.content}}]}
    yield {"choices": [{"finish_reason": _finish(turn)}], "usage": None}


_STYLES = {
    Style.FRAGMENTS: _fragments,
    Style.NO_INDEX: _no_index,
    Style.ONE_INDEX: _one_index,
    Style.MESSAGE: _message,
    Style.SPARSE: _sparse,
}


@contextmanager
def serving(server: ModelServer) -> Iterator[ModelServer]:
    """Serve on loopback until left."""

    class Handler(_Handler):
        model = server

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, args=(0.02,))
    thread.start()
    server.base_url = f"http://127.0.0.1:{http.server_port}/v1"
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    model: ModelServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path != "/v1/chat/completions":
            self._whole(Trouble(404, body=b'{"error": {"message": "no such path"}}'))
            return
        turn, trouble = self.model.take(body)
        try:
            if trouble is not None:
                self._trouble(trouble)
            elif self.model.style is Style.MESSAGE:
                (message,) = self.model.chunks(turn)
                self._whole(Trouble(body=json.dumps(message).encode()))
            else:
                self._stream(turn)
        except ConnectionError:
            # The client hung up: an answer that it did not take whole was not counted.
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""

    def _whole(self, reply: Trouble) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("content-type", reply.kind)
        self.send_header("content-length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    def _trouble(self, trouble: Trouble) -> None:
        if not trouble.is_cut:
            self._whole(trouble)
            return
        self._head()
        self._chunk(trouble.body)
        self.close_connection = True

    def _stream(self, turn: int) -> None:
        self._head()
        for chunk in self.model.chunks(turn):
            line = chunk if isinstance(chunk, str) else f"data: {json.dumps(chunk)}"
            self._chunk(f"{line}\n\n".encode())
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _head(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
