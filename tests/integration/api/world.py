"""A server over the demo data set, asked in this process: each test has a copy of its own."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx

import ringfence.database.tables  # noqa: F401 every room's tables
from ringfence.api.app import create_app
from ringfence.api.feed import Feed
from ringfence.api.house import House, Origin
from ringfence.api.verdicts import LogVerdict, Verdicts
from ringfence.auth import sessions, tokens
from ringfence.auth.roles import Permission
from ringfence.auth.sealing import Seal
from ringfence.demo.seed import StageClock, fill
from ringfence.settings import Settings
from ringfence_audit.keys import Signer
from ringfence_audit.query import Filter, PageRequest, query
from ringfence_audit.store import SqlStore
from ringfence_tools import escalations
from ringfence_tools.builtin.toolset import builtin_toolbox
from ringfence_tools.calls import EscalationId
from ringfence_tools.escalations import Escalation

ORIGIN = Origin("http", "127.0.0.1", 8600)
HARMLESS, HIDING, SHOP_HARMLESS, SHOP_SENDING, REWRITTEN, QUESTION = 4, 5, 6, 7, 8, 9
"""Numbers of the data set's open cards."""


def store_at(folder: Path, clock: StageClock | None = None) -> SqlStore:
    signer = Signer.load_or_create(folder / "audit.key", "test.example/log")
    store = SqlStore.open(f"sqlite:///{folder}/ringfence.db", signer=signer, clock=clock or StageClock())
    store.create_schema()
    return store


def make_seeded(folder: Path) -> None:
    """The data set on disk, to be copied."""
    folder.mkdir(parents=True, exist_ok=True)
    clock = StageClock()
    with store_at(folder, clock) as store:
        asyncio.run(fill(store, folder / "demo", clock))


async def intact() -> LogVerdict:
    return LogVerdict("intact, not anchored", "intact, not anchored", 1, datetime.now(UTC))


@dataclass
class World:
    """`clients` are kept so that their cookies stay."""

    store: SqlStore
    house: House
    transport: httpx.ASGITransport
    clients: dict[str, httpx.AsyncClient] = field(default_factory=dict)

    def stranger(self) -> httpx.AsyncClient:
        return self._client("", {})

    async def person(self, name: str) -> httpx.AsyncClient:
        """A browser of this person, with a session."""
        if name not in self.clients:
            secret = await self.store.write(lambda tx: sessions.open_session(tx, name, how="test", address="192.0.2.1"))
            headers = {"origin": ORIGIN.text, "sec-fetch-site": "same-origin"}
            self.clients[name] = self._client(name, headers)
            self.clients[name].cookies.set(self.house.session_cookie, secret)
        return self.clients[name]

    async def program(self, name: str, *scopes: Permission) -> httpx.AsyncClient:
        """A program with a token of this person."""
        wanted = scopes or tuple(Permission)
        text = await self.store.write(
            lambda tx: tokens.create(tx, name, by="system:test", scopes=wanted, label="test", days=1)
        )
        return self._client(name, {"authorization": f"Bearer {text}"})

    async def card(self, number: int) -> Escalation:
        return await self.store.read(lambda c: escalations.get(c, EscalationId(number)))

    async def kinds(self, *, newest: int = 50) -> list[str]:
        """Kinds of the newest entries, newest first, with what a log-in entry is about."""
        page = await self.store.read(lambda c: query(c, Filter(), PageRequest(newest)))
        return [f"{entry.kind} {entry.data.get('what', '')}".strip() for entry in page.entries]

    def _client(self, name: str, headers: dict[str, str]) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=self.transport, base_url=ORIGIN.text, headers=headers)


def house_at(folder: Path, store: SqlStore) -> House:
    """A house over a folder that holds the data set."""
    config = folder / "config"
    (config / "profiles").mkdir(parents=True, exist_ok=True)
    return House(
        settings=Settings(home=folder, config=config),
        store=store,
        seal=Seal.generate(),
        toolbox=builtin_toolbox(),
        origin=ORIGIN,
        feed=Feed(store),
        verdicts=Verdicts(intact),
    )


@asynccontextmanager
async def world_at(folder: Path) -> AsyncIterator[World]:
    with store_at(folder) as store:
        house = house_at(folder, store)
        yield World(store, house, httpx.ASGITransport(create_app(house), raise_app_exceptions=False))


def copied(seeded: Path, folder: Path) -> Path:
    shutil.copytree(seeded, folder, dirs_exist_ok=True)
    return folder
