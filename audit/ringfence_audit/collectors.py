"""Collectors that a feed speaks to: HTTP (JSON lines), OpenTelemetry logs (OTLP/HTTP, JSON), syslog (RFC 5424, TCP).

Plain or OCSF. Each `send` ends with the collector's own word that it has the batch: an HTTP 2xx, an OTLP answer
without rejected records, and for syslog, which has no answer, the orderly end of the connection: the collector closes
its side only after it has read ours to the end.
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Callable, Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Literal, TypeAlias
from urllib.parse import SplitResult, urlsplit

from ringfence_audit.errors import AuditError
from ringfence_audit.events import JsonValue
from ringfence_audit.facts import is_refused
from ringfence_audit.mapping import to_attributes, to_ocsf
from ringfence_audit.stream import Collector, CollectorDown, Sent

Form: TypeAlias = Literal["plain", "ocsf"]
TIMEOUT_S = 20
_MAX_ANSWER = 64 * 1024
_INFO, _WARN = 9, 13
_FACILITY_AUDIT, _NOTICE, _WARNING = 13, 5, 4
_SCHEMES = ("http", "https", "otlp+http", "otlp+https", "syslog+tcp", "syslog+tls")


class InvalidCollector(AuditError):
    """The address of a collector cannot be used: mend it."""


def make_collector(address: str, *, form: Form, origin: str, token: str = "") -> Collector:
    """`http(s)://…`, `otlp+http(s)://…` (path `/v1/logs` where none is given), `syslog+tcp://HOST:PORT` or
    `syslog+tls://…`. `token` is sent as a bearer token over HTTP. Raises `InvalidCollector`."""
    split = urlsplit(address)
    if split.scheme not in _SCHEMES or not split.hostname or split.username:
        raise InvalidCollector(f"a collector's address begins with one of {', '.join(_SCHEMES)} and names a host")
    if split.scheme.startswith("syslog"):
        if split.port is None:
            raise InvalidCollector("a syslog collector needs a port, such as 6514")
        return SyslogCollector(
            split.hostname, split.port, form=form, origin=origin, has_tls=split.scheme.endswith("tls")
        )
    encode = _otlp if split.scheme.startswith("otlp") else _lines
    return HttpCollector(split, form=form, origin=origin, token=token, encode=encode)


_Encode: TypeAlias = "Callable[[Sequence[Sent], Form, str], tuple[bytes, str]]"


class HttpCollector:
    """See `stream.Collector`."""

    def __init__(self, split: SplitResult, *, form: Form, origin: str, token: str, encode: _Encode) -> None:
        self._split = split
        self._form = form
        self._origin = origin
        self._token = token
        self._encode = encode

    def send(self, batch: Sequence[Sent]) -> None:
        body, kind = self._encode(batch, self._form, self._origin)
        first, last = batch[0].entry.position, batch[-1].entry.position
        headers = {"Content-Type": kind, "Idempotency-Key": f"{self._origin}/{first}-{last}"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        split, is_otlp = self._split, self._encode is _otlp
        connect = HTTPSConnection if split.scheme.endswith("https") else HTTPConnection
        path = split.path or ("/v1/logs" if is_otlp else "/")
        connection = connect(split.hostname or "", split.port, timeout=TIMEOUT_S)
        try:
            connection.request("POST", path + (f"?{split.query}" if split.query else ""), body, headers)
            answer = connection.getresponse()
            text = answer.read(_MAX_ANSWER)
        except (OSError, HTTPException) as error:
            raise CollectorDown(f"{split.hostname} does not answer ({type(error).__name__})") from error
        finally:
            connection.close()
        if not 200 <= answer.status < 300:
            raise CollectorDown(f"{split.hostname} answered {answer.status}")
        if is_otlp and _rejected(text):
            raise CollectorDown(f"{split.hostname} rejected some of the records")


class SyslogCollector:
    """See `stream.Collector`. One connection a batch, frames counted in octets (RFC 6587)."""

    def __init__(self, host: str, port: int, *, form: Form, origin: str, has_tls: bool) -> None:
        self._address = (host, port)
        self._form = form
        self._origin = origin
        self._tls = ssl.create_default_context() if has_tls else None

    def send(self, batch: Sequence[Sent]) -> None:
        frames = b"".join(_frame(item, self._form, self._origin) for item in batch)
        try:
            with socket.create_connection(self._address, timeout=TIMEOUT_S) as plain:
                stream = plain if self._tls is None else self._tls.wrap_socket(plain, server_hostname=self._address[0])
                with stream:
                    stream.sendall(frames)
                    if isinstance(stream, ssl.SSLSocket):
                        stream.unwrap()
                    else:
                        stream.shutdown(socket.SHUT_WR)
                        while stream.recv(4096):
                            pass  # a collector that talks back is read to its end
        except OSError as error:
            raise CollectorDown(f"{self._address[0]} did not take the batch ({type(error).__name__})") from error


def _lines(batch: Sequence[Sent], form: Form, origin: str) -> tuple[bytes, str]:
    lines = [json.dumps(_value(item, form, origin), separators=(",", ":")) for item in batch]
    return "".join(line + "\n" for line in lines).encode(), "application/x-ndjson"


def _value(item: Sent, form: Form, origin: str) -> dict[str, JsonValue]:
    if form == "ocsf":
        return to_ocsf(item.entry, item.raw, origin=origin)
    return {"log": origin, "position": item.entry.position, "entry": item.raw.decode(errors="replace")}


def _otlp(batch: Sequence[Sent], form: Form, origin: str) -> tuple[bytes, str]:
    records = [_record(item, form, origin) for item in batch]
    resource = {"attributes": [_attribute("service.name", "ringfence"), _attribute("ringfence.log", origin)]}
    scope = {"scope": {"name": "ringfence.audit"}, "logRecords": records}
    body = {"resourceLogs": [{"resource": resource, "scopeLogs": [scope]}]}
    return json.dumps(body, separators=(",", ":")).encode(), "application/json"


def _record(item: Sent, form: Form, origin: str) -> dict[str, JsonValue]:
    nanos = int(item.entry.time.timestamp() * 1_000_000) * 1_000
    text = (
        item.raw.decode(errors="replace")
        if form == "plain"
        else json.dumps(to_ocsf(item.entry, item.raw, origin=origin))
    )
    return {
        "timeUnixNano": str(nanos),
        "severityNumber": _WARN if is_refused(item.entry) else _INFO,
        "eventName": f"ringfence.{item.entry.kind}",
        "body": {"stringValue": text},
        "attributes": [_attribute(name, value) for name, value in to_attributes(item.entry).items()],
    }


def _attribute(name: str, value: str | int | bool) -> dict[str, JsonValue]:
    if isinstance(value, bool):
        return {"key": name, "value": {"boolValue": value}}
    if isinstance(value, int):
        return {"key": name, "value": {"intValue": str(value)}}
    return {"key": name, "value": {"stringValue": value}}


def _rejected(answer: bytes) -> bool:
    """Whether an OTLP answer says that some records were not taken. An answer that is no JSON says nothing."""
    try:
        body = json.loads(answer or b"{}")
    except (ValueError, RecursionError):
        return False
    partial = body.get("partialSuccess") if isinstance(body, dict) else None
    return isinstance(partial, dict) and str(partial.get("rejectedLogRecords", "0")) not in ("0", "")


def _frame(item: Sent, form: Form, origin: str) -> bytes:
    """One RFC 5424 message with its length in front. Texts of agents stay inside the JSON, which has no newline."""
    severity = _WARNING if is_refused(item.entry) else _NOTICE
    time = item.entry.time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    message = json.dumps(_value(item, form, origin), separators=(",", ":"))
    place = f"{_word(origin)} ringfence {item.entry.position} {_word(item.entry.kind)}"
    body = f"<{_FACILITY_AUDIT * 8 + severity}>1 {time} {place} - {message}".encode()
    return f"{len(body)} ".encode() + body


def _word(text: str) -> str:
    """A header field: printable ASCII without spaces, cut as RFC 5424 wants it."""
    return "".join(c if "!" <= c <= "~" else "_" for c in text)[:32] or "-"
