"""A witness as an anchor: it cosigns our checkpoints, each only where the log grew from the last one (tlog-witness)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from ringfence_audit.anchors import Offer, Probe, SinkRefused, SinkUnreachable
from ringfence_audit.errors import InvalidExport
from ringfence_audit.notes import VerifierKey, is_signed, parse_checkpoint, parse_note
from ringfence_audit.proofs import consistency_text, is_decimal
from ringfence_audit.witness import log_id

TIMEOUT_S = 20
_MAX_ANSWER = 128 * 1024


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    text: str


class WitnessSink:
    """See `anchors.Sink`. `key` is the witness's public key, pinned when it was configured."""

    def __init__(self, name: str, url: str, key: VerifierKey) -> None:
        split = urlsplit(url)
        if split.scheme not in ("http", "https") or not split.hostname:
            raise InvalidExport("a witness is named by an http or https URL")
        self.name = name
        self.key = key
        self._split = split

    def publish(self, offer: Offer) -> str:
        reply = self._submit(offer, 0)
        if reply.status == 409:
            known = self._size(reply)
            if known > offer.size:
                raise SinkRefused(f"{self.name} has cosigned {known} entries of this log, and it has only {offer.size}")
            reply = self._submit(offer, known)
        if reply.status in (409, 422):
            raise SinkRefused(
                f"{self.name} will not cosign: this log did not grow from the one that it cosigned before"
            )
        if reply.status != 200:
            raise SinkUnreachable(f"{self.name} answered {reply.status}: {reply.text.strip()[:100]}")
        return self._checked(offer.note + reply.text)

    def fetch(self, origin: str) -> Sequence[str]:
        reply = self._ask("GET", f"/{log_id(origin)}/checkpoint", "")
        if reply.status == 404:
            return ()
        if reply.status != 200:
            raise SinkUnreachable(f"{self.name} answered {reply.status}")
        return (self._checked(reply.text),)

    def probe(self, origin: str) -> Sequence[Probe]:
        """Offer it again what it holds: as if it held nothing, and with a proof that is none."""
        held = list(self.fetch(origin))
        if not held:
            raise SinkUnreachable(f"{self.name} holds nothing yet: anchor a checkpoint first")
        size = parse_checkpoint(parse_note(held[0]).text).size
        forget = self._ask("POST", "/add-checkpoint", consistency_text(0, (), held[0]))
        forged = self._ask("POST", "/add-checkpoint", consistency_text(size, (bytes(32),), held[0]))
        return [
            _probed("start anew, as if it had cosigned nothing", forget),
            _probed("cosign on a proof that proves nothing", forged),
        ]

    def _submit(self, offer: Offer, old: int) -> _Reply:
        try:
            path = offer.consistency(old) if 0 < old < offer.size else ()
        except InvalidExport as error:
            raise SinkRefused(f"the log cannot prove that it grew from {old} entries: {error}") from error
        return self._ask("POST", "/add-checkpoint", consistency_text(old, path, offer.note))

    def _checked(self, note: str) -> str:
        try:
            parsed = parse_note(note)
        except InvalidExport as error:
            raise SinkUnreachable(f"{self.name} answered with something that is no note") from error
        if not is_signed(parsed, self.key):
            raise SinkUnreachable(f"{self.name} answered with a cosignature that is not its own")
        return note

    def _size(self, reply: _Reply) -> int:
        if not is_decimal(reply.text.strip()):
            raise SinkUnreachable(f"{self.name} names no size")
        return int(reply.text.strip())

    def _ask(self, method: str, path: str, body: str) -> _Reply:
        kind = HTTPSConnection if self._split.scheme == "https" else HTTPConnection
        connection = kind(self._split.hostname or "", self._split.port, timeout=TIMEOUT_S)
        try:
            connection.request(method, self._split.path.rstrip("/") + path, body.encode())
            answer = connection.getresponse()
            return _Reply(answer.status, answer.read(_MAX_ANSWER).decode())
        except (OSError, HTTPException, UnicodeDecodeError) as error:
            raise SinkUnreachable(f"{self.name} does not answer ({type(error).__name__})") from error
        finally:
            connection.close()


def _probed(what: str, reply: _Reply) -> Probe:
    return Probe(what, is_refused=reply.status in (400, 409, 422), detail=f"it answered {reply.status}")
