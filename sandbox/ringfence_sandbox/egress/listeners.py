"""Checks the one descriptor that a sandbox hands out. It is taken once, before the first command; this is the check."""

from __future__ import annotations

import ipaddress
import socket

from ringfence_sandbox.egress.errors import ListenerRefused


def check_listener(listener: socket.socket) -> None:
    """A TCP socket of AF_INET that listens on a loopback address. Raises `ListenerRefused`.

    The kernel is asked, not the Python object: its family is whatever it was constructed with.
    """
    try:
        domain = listener.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN)
        kind = listener.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
        protocol = listener.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL)
        is_listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        name = listener.getsockname()
    except OSError as error:
        raise ListenerRefused("the descriptor handed over is not a socket") from error
    if (domain, kind, protocol) != (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP):
        raise ListenerRefused("the socket handed over is not TCP over IPv4")
    if not is_listening:
        raise ListenerRefused("the socket handed over does not listen")
    if not ipaddress.ip_address(name[0]).is_loopback:
        raise ListenerRefused("the socket handed over does not listen on a loopback address")
