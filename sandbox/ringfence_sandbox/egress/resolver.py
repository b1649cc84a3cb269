"""Names become addresses here, once for each connection, and nowhere else."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from ringfence_sandbox.egress.hosts import IpAddress

_THREADS = 8


class Resolver(Protocol):
    """Turns a canonical host name into addresses, best first; empty where the name is unknown.

    Called only after the request was admitted, so that a query cannot carry anything out of its own accord. The
    caller bounds the wait. Raises `OSError` where no answer could be had.
    """

    async def resolve(self, host: str) -> Sequence[IpAddress]: ...


class SystemResolver:
    """The machine's own resolver (`getaddrinfo`), on threads of its own so that dead DNS stalls nobody else."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="egress-dns")

    async def resolve(self, host: str) -> Sequence[IpAddress]:
        """As absolute name first, since a search domain must not turn an outside name into an inside one."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, _lookup, host + "." if "." in host else host)
        if not found and "." in host:
            # The hosts file (Kubernetes host aliases too) knows names only without the final dot.
            found = await loop.run_in_executor(self._threads, _lookup, host)
        return found

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _lookup(name: str) -> Sequence[IpAddress]:
    try:
        rows = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except socket.gaierror as error:
        if error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)):
            return ()
        raise
    except UnicodeError:
        return ()
    texts = dict.fromkeys(str(row[4][0]).partition("%")[0] for row in rows)
    return tuple(ipaddress.ip_address(text) for text in texts)
