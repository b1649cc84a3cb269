"""Runs the egress service: `python -m ringfence_sandbox.egress --listen 0.0.0.0:3128 --parts package.module:function`.

The function, from the rooms above, takes nothing and returns `ServiceParts`: who decides, who is who, which authority
belongs to which sandbox. SIGTERM and SIGINT end it; connections are closed and reported first.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Sequence

from ringfence_sandbox.egress.errors import EgressMisconfigured, EgressRefusal
from ringfence_sandbox.egress.hosts import parse_authority
from ringfence_sandbox.egress.proxy import EgressProxy
from ringfence_sandbox.egress.service import EgressService, ServiceParts
from ringfence_sandbox.egress.settings import EgressSettings

_BACKLOG = 512


def load_parts(name: str) -> ServiceParts:
    """Call `package.module:function`, as the operator wrote it. Raises `EgressMisconfigured`."""
    module_name, _, function_name = name.partition(":")
    try:
        function: Callable[[], object] = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise EgressMisconfigured(f"--parts {name}: there is no such module and function") from error
    parts = function()
    if not isinstance(parts, ServiceParts):
        raise EgressMisconfigured(f"--parts {name}: it does not return ServiceParts")
    return parts


def listener_at(address: str) -> socket.socket:
    """A listening TCP socket at `host:port`. Raises `EgressMisconfigured`."""
    try:
        authority = parse_authority(address)
        family = socket.AF_INET6 if ":" in authority.host else socket.AF_INET
        return socket.create_server((authority.host, authority.port), family=family, backlog=_BACKLOG)
    except (EgressRefusal, OSError) as error:
        raise EgressMisconfigured(f"--listen {address}: {error}") from error


async def run(parts: ServiceParts, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT."""
    settings: EgressSettings = parts.settings
    proxy = EgressProxy(
        parts.gatekeeper,
        upstream=settings.proxy(),
        tls=settings.client_context(),
        ca=parts.authority_of,
        limits=parts.limits,
        observer=parts.observer,
    )
    serving = asyncio.create_task(EgressService(proxy, parts.identities).serve(listener))
    logging.getLogger("ringfence.egress").info("serving on %s", listener.getsockname())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, serving.cancel)
    await asyncio.gather(serving, return_exceptions=True)
    if not serving.cancelled():
        serving.result()


def main(argv: Sequence[str] | None = None) -> int:
    """0 after a signal; 2 with one line on stderr where it cannot start."""
    parser = argparse.ArgumentParser(prog="python -m ringfence_sandbox.egress", description="The egress proxy.")
    parser.add_argument("--listen", default="127.0.0.1:3128", help="address and port")
    parser.add_argument("--parts", required=True, help="package.module:function that returns ServiceParts")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        parts = load_parts(options.parts)
        with listener_at(options.listen) as listener:
            asyncio.run(run(parts, listener))
    except EgressMisconfigured as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
