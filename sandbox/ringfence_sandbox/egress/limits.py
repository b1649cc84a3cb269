"""How much one sandbox may send, receive, keep open and keep waiting. Every wait of the proxy has a bound here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EgressLimits:
    """Bounds of one sandbox. Seconds are wall seconds; byte rates are per direction.

    `admit_s` bounds the policy's answer, `resolve_s` a DNS answer, `connect_s` TCP and TLS to the host, `head_s` the
    whole head of a request (so that one byte a second does not hold a connection), `hello_s` the ClientHello.
    `idle_s` is the longest silence of a tunnel or body, `total_s` the longest life of a connection. Every
    `recheck_s` the policy is asked which open requests still stand, with `stands_s` for its answer.
    """

    connections: int = 128
    head_bytes: int = 64 << 10
    hello_bytes: int = 64 << 10
    sent_bytes: int = 4 << 30
    received_bytes: int = 64 << 30
    bytes_per_s: int = 256 << 20
    requests_per_s: int = 100
    request_burst: int = 400
    admit_s: float = 15.0
    closed_s: float = 15.0
    resolve_s: float = 10.0
    connect_s: float = 20.0
    head_s: float = 30.0
    hello_s: float = 15.0
    idle_s: float = 300.0
    total_s: float = 6 * 3600.0
    recheck_s: float = 0.5
    stands_s: float = 1.0
