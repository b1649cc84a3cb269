"""The way out: a listening socket on the sandbox's own loopback, given to the control plane once.

It is made before the first command has run, handed over a Unix socket that is closed at once, and kept by nobody here.
Commands see a proxy at 127.0.0.1:3128; who accepts there is the egress proxy, outside.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .settings import Settings

PORT = 3128
AF_INET, SOCK_STREAM, SOL_SOCKET, SO_REUSEADDR, SCM_RIGHTS = 2, 1, 1, 2, 1


def hand_out(settings: Settings) -> None:
    """Send the listener. A second call finds the descriptor closed and raises OSError."""
    from _socket import socket

    passer = socket(1, SOCK_STREAM, 0, settings.egress_fd)
    settings.egress_fd = -1
    listener = socket(AF_INET, SOCK_STREAM, 0)
    try:
        listener.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", PORT))
        listener.listen(128)
        passer.sendmsg([b"listener"], [(SOL_SOCKET, SCM_RIGHTS, listener.fileno().to_bytes(4, "little"))])
    finally:
        os.close(listener.detach())
        os.close(passer.detach())
