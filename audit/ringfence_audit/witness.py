"""A witness (c2sp.org/tlog-witness): it cosigns checkpoints of logs that it knows, and only such as grow from the last.

Run it where the service has no hand: `ringfence audit witness`. It keeps one small file a log. Whoever wants to show
another history needs the witness's key as well. `Witness` is the protocol without the network; `serve` puts it behind
HTTP.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from ringfence_audit.errors import InvalidExport
from ringfence_audit.keys import Signer
from ringfence_audit.merkle import is_consistent
from ringfence_audit.notes import Checkpoint, VerifierKey, cosign, open_checkpoint, parse_checkpoint, parse_note
from ringfence_audit.proofs import ConsistencyRequest, parse_consistency

MAX_BODY = 128 * 1024
_TIMEOUT_S = 10
_SIZE_TYPE = "text/x.tlog.size"


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer."""

    status: int
    body: str = ""
    kind: str = "text/plain; charset=utf-8"


class Witness:
    """Keeps in `folder` the newest checkpoint that it cosigned of each log. Safe for several threads of one process."""

    def __init__(
        self, signer: Signer, logs: Mapping[str, VerifierKey], folder: Path, *, clock: Callable[[], float]
    ) -> None:
        """`logs` maps an origin to its key; `clock` gives seconds since 1970."""
        self._signer = signer
        self._logs = dict(logs)
        self._folder = folder
        self._clock = clock
        self._lock = threading.Lock()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def add_checkpoint(self, body: bytes) -> Answer:
        """The `add-checkpoint` call. The new state is durable before the cosignature leaves."""
        try:
            asked = parse_consistency(body.decode())
            claimed = parse_checkpoint(parse_note(asked.note).text)
        except (InvalidExport, UnicodeDecodeError) as error:
            return Answer(400, f"{error}\n")
        key = self._logs.get(claimed.origin)
        if key is None:
            return Answer(404, "no such log\n")
        try:
            checkpoint = open_checkpoint(asked.note, key)
        except InvalidExport as error:
            return Answer(403, f"{error}\n")
        if asked.old > checkpoint.size:
            return Answer(400, "the old size is larger than the checkpoint's\n")
        with self._lock:
            return self._grow(asked, checkpoint)

    def _grow(self, asked: ConsistencyRequest, checkpoint: Checkpoint) -> Answer:
        known = self._newest(checkpoint.origin)
        size = 0 if known is None else known.size
        if asked.old != size:
            return Answer(409, f"{size}\n", _SIZE_TYPE)
        if known is not None:
            if size == checkpoint.size and known.root != checkpoint.root:
                return Answer(409, f"{size}\n", _SIZE_TYPE)
            roots = {"old_root": known.root, "new_root": checkpoint.root}
            if not is_consistent(size, checkpoint.size, proof=asked.path, **roots):
                return Answer(422, "the log did not grow from what was cosigned before\n")
        elif asked.path:
            return Answer(422, "a first checkpoint needs no proof\n")
        cosigned = cosign(asked.note, self._signer, seconds=int(self._clock()))
        self._keep(checkpoint.origin, cosigned)
        return Answer(200, cosigned.removeprefix(asked.note))

    def checkpoint(self, log: str) -> Answer:
        """The newest cosigned checkpoint of a log, by the SHA-256 of its origin."""
        if len(log) != 64 or not set(log) <= set("0123456789abcdef"):
            return Answer(404)
        try:
            return Answer(200, (self._folder / log).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return Answer(404)

    def _newest(self, origin: str) -> Checkpoint | None:
        try:
            note = (self._folder / log_id(origin)).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        return parse_checkpoint(parse_note(note).text)

    def _keep(self, origin: str, note: str) -> None:
        draft = self._folder / f".{log_id(origin)}"
        with draft.open("w", encoding="utf-8") as file:
            file.write(note)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._folder / log_id(origin))
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def log_id(origin: str) -> str:
    return sha256(origin.encode()).hexdigest()


def server(witness: Witness, host: str, port: int) -> ThreadingHTTPServer:
    """An HTTP server that is ready to `serve_forever`. Port 0 takes a free one."""

    class Handler(BaseHTTPRequestHandler):
        timeout = _TIMEOUT_S
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not length.isascii() or not length.isdigit() or int(length) > MAX_BODY:
                self.close_connection = True
                self._answer(Answer(413))
            elif self.path.rstrip("/").endswith("/add-checkpoint"):
                self._answer(witness.add_checkpoint(self.rfile.read(int(length))))
            else:
                self._answer(Answer(404))

        def do_GET(self) -> None:
            parts = self.path.strip("/").split("/")
            is_known = len(parts) >= 2 and parts[-1] == "checkpoint"
            self._answer(witness.checkpoint(parts[-2]) if is_known else Answer(404))

        def _answer(self, answer: Answer) -> None:
            body = answer.body.encode()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing: a line for each request would be a way to fill the disk."""

    return ThreadingHTTPServer((host, port), Handler)
