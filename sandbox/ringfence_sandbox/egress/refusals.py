"""What the sandbox is told when something does not leave: which host, which rule, how to ask."""

from __future__ import annotations

import json

import h11

from ringfence_sandbox.egress.errors import Code, EgressRefusal
from ringfence_sandbox.egress.hosts import Authority
from ringfence_sandbox.egress.wires import InsideWire

_ASK = "ask with request_access, kind network, for {host}:{port}; a person may open it"
_REASON_BYTES = 200


def refusal_body(refusal: EgressRefusal, authority: Authority | None) -> bytes:
    """JSON with code, host, port, rule, reason, instead; one object, a final newline."""
    host, port = (authority.host, authority.port) if authority else ("", 0)
    instead = refusal.instead
    if not instead and refusal.code is Code.HOST_REFUSED:
        instead = _ASK.format(host=host, port=port)
    answer = {
        "refused_by": "ringfence",
        "code": str(refusal.code),
        "host": host,
        "port": port,
        "rule": refusal.rule,
        "reason": refusal.reason,
        "instead": instead,
    }
    return json.dumps(answer, ensure_ascii=True).encode() + b"\n"


def refusal_reason_phrase(refusal: EgressRefusal) -> bytes:
    """The status line's phrase. pip, git and curl show it for a refused CONNECT, where they hide the body."""
    text = f"Ringfence: {refusal.reason}"
    if refusal.code is Code.HOST_REFUSED:
        text += " - ask with request_access"
    safe = "".join(sign if " " <= sign <= "~" else "?" for sign in text)
    return safe[:_REASON_BYTES].encode("ascii")


async def send_refusal(wire: InsideWire, refusal: EgressRefusal, authority: Authority | None, *, goes_on: bool) -> None:
    """Answer the request at hand. Unless `goes_on`, the connection is over afterwards. Raises `SandboxHungUp`."""
    body = refusal_body(refusal, authority)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refusal.code is Code.NOT_IDENTIFIED:
        headers.append((b"proxy-authenticate", b'Basic realm="ringfence"'))
    if not goes_on:
        headers.append((b"connection", b"close"))
    reason = refusal_reason_phrase(refusal)
    await wire.send(h11.Response(status_code=refusal.status, headers=headers, reason=reason))
    await wire.send(h11.Data(data=body))
    await wire.send(h11.EndOfMessage())
    if not goes_on:
        await wire.linger()
