"""A real server on loopback over the demo data set, and a real Chromium."""

from __future__ import annotations

import asyncio
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from sqlalchemy import text

from ringfence.api.app import create_app
from ringfence.api.feed import Feed
from ringfence.api.house import House, Origin
from ringfence.api.verdicts import Verdicts
from ringfence.auth import sessions
from ringfence.auth.sealing import Seal
from ringfence.settings import Settings
from ringfence_audit.events import Event, Kind
from ringfence_audit.store import SqlStore
from ringfence_tools.builtin.toolset import builtin_toolbox
from tests.integration.api.world import copied, intact, make_seeded, store_at

CHROMIUM = shutil.which("chromium")


@dataclass
class Site:
    """`seen` are addresses that pages asked for, `reports` what the policy or the console complained about."""

    url: str
    store: SqlStore
    house: House
    browser: Browser
    seen: list[str] = field(default_factory=list)
    reports: list[str] = field(default_factory=list)
    contexts: list[BrowserContext] = field(default_factory=list)

    def open(self, who: str, path: str, *, width: int = 1440, theme: str = "light", has_scripts: bool = True) -> Page:
        context = self.browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if theme == "dark" else "light",
            java_script_enabled=has_scripts,
        )
        self.contexts.append(context)
        if who:
            secret = self.write_session(who)
            context.add_cookies([{"name": self.house.session_cookie, "value": secret, "url": self.url}])
        page = context.new_page()
        page.on("request", lambda request: self.seen.append(request.url))
        page.on("console", lambda said: self.reports.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.reports.append(str(error)))
        page.goto(self.url + path)
        return page

    def write_session(self, who: str) -> str:
        def write() -> str:
            opening = self.store.write(lambda tx: sessions.open_session(tx, who, how="test", address="127.0.0.1"))
            return asyncio.run(opening)

        # Playwright's own loop runs on this thread.
        with ThreadPoolExecutor(1) as elsewhere:
            return elsewhere.submit(write).result()

    @contextmanager
    def chatter(self) -> Iterator[None]:
        """News of a card, again and again, faster than any page is read."""
        run = self.run_of("Round half")
        event = Event(Kind.VOTE, "person:cleo", {"escalation": 4}, run)
        stop = threading.Event()

        def talk() -> None:
            while not stop.wait(0.02):
                asyncio.run(self.store.write(lambda tx: tx.record(event)))

        with ThreadPoolExecutor(1) as elsewhere:
            talking = elsewhere.submit(talk)
            try:
                yield
            finally:
                stop.set()
                talking.result()

    def run_of(self, title: str) -> str:
        query = text("SELECT runs.id FROM runs JOIN tasks ON tasks.id = runs.task WHERE tasks.text LIKE :title")
        return str(self.store.read_now(lambda c: c.execute(query, {"title": f"{title}%"}).scalar_one()))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def seeded_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    worker = threading.Thread(target=make_seeded, args=(folder,))
    worker.start()
    worker.join()
    return folder


@pytest.fixture
def site(browser: Browser, seeded_files: Path, tmp_path: Path) -> Iterator[Site]:
    home = copied(seeded_files, tmp_path / "home")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        origin = Origin("http", "127.0.0.1", listener.getsockname()[1])
        with store_at(home) as store:
            house = House(
                settings=Settings(home=home, config=home / "config"),
                store=store,
                seal=Seal.generate(),
                toolbox=builtin_toolbox(),
                origin=origin,
                feed=Feed(store),
                verdicts=Verdicts(intact),
            )
            server = uvicorn.Server(uvicorn.Config(create_app(house), log_config=None, access_log=False))
            thread = threading.Thread(target=_serve, args=(server, house, listener))
            thread.start()
            while not server.started:
                time.sleep(0.01)
            site = Site(origin.text, store, house, browser)
            yield site
            for context in site.contexts:
                context.close()
            server.should_exit = True
            house.feed.close()
            thread.join(20)


def _serve(server: uvicorn.Server, house: House, listener: socket.socket) -> None:
    async def serve() -> None:
        feed = asyncio.create_task(house.feed.run())
        await server.serve(sockets=[listener])
        feed.cancel()

    asyncio.run(serve())
