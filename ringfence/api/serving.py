"""`ringfence serve`: API, console and a worker in one process, on one event loop.

What lives beside the requests: the feed, the worker, the verification of the log. All of it ends with the server, runs
are let go at their next step, and open streams are closed so that nothing holds the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

import ringfence.api.schema  # noqa: F401 its tables
from ringfence.api.app import create_app
from ringfence.api.feed import Feed
from ringfence.api.house import LOOPBACK, House, Origin
from ringfence.api.log_index import LogIndex
from ringfence.api.verdicts import Verdicts, check_in_process
from ringfence.auth.provider import Provider, ProviderSettings
from ringfence.auth.provider_web import HttpsWeb
from ringfence.auth.refusals import Refusals
from ringfence.auth.sealing import Seal
from ringfence.errors import Mistake
from ringfence.notify.notifier import Notifier
from ringfence.notify.routes import read_routes
from ringfence.session import Session
from ringfence.settings import Settings
from ringfence.wiring import open_workshop
from ringfence.working import work
from ringfence_audit.errors import LogUnavailable
from ringfence_audit.store import SqlStore
from ringfence_tools.builtin.toolset import builtin_toolbox

VERIFY_EVERY_S = 3600.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen, and under which address browsers reach it."""

    host: str
    port: int
    origin: Origin
    proxies: str = ""
    """Addresses of proxies whose word on the client's address is taken, comma-separated."""

    @classmethod
    def of(cls, host: str, port: int, url: str | None, proxies: str) -> Address:
        """Raises `Mistake`."""
        if url is None:
            if host not in LOOPBACK:
                raise Mistake(
                    f"listening on {host} needs the address that browsers use",
                    fix="Put a TLS proxy in front and give --url https://ringfence.example.org",
                )
            name = f"[{host}]" if ":" in host else host
            url = f"http://{name}:{port}"
        return cls(host, port, Origin.parse(url), proxies)


def make_house(settings: Settings, store: SqlStore, origin: Origin) -> House:
    """A house over an open store, that assigns nothing yet."""
    refusals = Refusals()
    return House(
        settings=settings,
        store=store,
        seal=Seal.load_or_create(settings.people_key),
        toolbox=builtin_toolbox(),
        origin=origin,
        feed=Feed(store),
        verdicts=Verdicts(check_in_process(settings)),
        refusals=refusals,
        index=LogIndex(settings, store),
        provider=_provider(settings, origin, refusals),
    )


def _provider(settings: Settings, origin: Origin, refusals: Refusals) -> Provider | None:
    """Raises `Mistake` where `RINGFENCE_OIDC` cannot be used."""
    if not settings.oidc:
        return None
    try:
        found = ProviderSettings.model_validate(settings.oidc)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise Mistake(
            f"RINGFENCE_OIDC: {place}: {first['msg']}",
            fix='Write {"issuer": "https://login.example.org", "client_id": "ringfence", "map": {…}}',
        ) from error
    return Provider(found, HttpsWeb(), redirect_uri=f"{origin.text}/login/callback", refusals=refusals)


def serve(session: Session, address: Address, *, has_worker: bool) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises `Mistake` where the address is taken."""
    house = make_house(session.settings, session.store, address.origin)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with living(session, house, has_worker=has_worker) as alive:
            app.state.house = alive
            yield

    config = uvicorn.Config(
        create_app(house, lifespan=lifespan),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(address.proxies),
        forwarded_allow_ips=address.proxies or None,
        timeout_graceful_shutdown=10,
        timeout_keep_alive=30,
    )
    with _listening(address) as listener:
        uvicorn.Server(config).run(sockets=[listener])


@asynccontextmanager
async def living(session: Session, house: House, *, has_worker: bool) -> AsyncIterator[House]:
    """The house with everything that lives beside its requests."""
    routes = read_routes(session.settings.config / "notify.yaml")
    async with open_workshop(session.settings, session.store, session.directory) as workshop:
        stop = asyncio.Event()
        beside = [
            asyncio.create_task(house.feed.run(), name="feed"),
            asyncio.create_task(house.verdicts.keep(VERIFY_EVERY_S), name="verdicts"),
            asyncio.create_task(Notifier(house, routes).run(), name="notifier"),
            asyncio.create_task(house.refusals.keep(house.store), name="refusals"),
        ]
        if house.index is not None:
            beside.append(asyncio.create_task(house.index.run(), name="log-index"))
        working = asyncio.create_task(work(workshop, stop=stop), name="worker") if has_worker else None
        try:
            yield replace(house, workshop=workshop)
        finally:
            stop.set()
            house.feed.close()
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, *([working] if working else []), return_exceptions=True)
            if house.index is not None:
                house.index.close()
            with contextlib.suppress(LogUnavailable):
                await house.refusals.tell(house.store, is_end=True)


@contextmanager
def _listening(address: Address) -> Iterator[socket.socket]:
    """Bound before anything starts, so that a taken port is one clear line."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address.host, address.port))
        except OSError as error:
            raise Mistake(
                f"cannot listen on {address.host}:{address.port} ({error.strerror})", fix="Choose another with --port"
            ) from error
        listener.listen(2048)
        yield listener
