"""Every page, for each role, at both widths and in both themes: accessible, within its frame, and at home."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import Site

pytestmark = pytest.mark.browser
AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text(encoding="utf-8")
PAGES: dict[str, tuple[str, ...]] = {
    "": ("/login",),
    "ana": ("/inbox", "/board", "/board/new", "/runs/{run}", "/runs/{run}/result", "/profiles", "/me", "/nowhere"),
    "ben": ("/inbox", "/inbox/4", "/inbox/5", "/inbox/8", "/board", "/runs/{run}", "/me"),
    "cleo": ("/inbox?scope=all", "/inbox/7", "/inbox/9"),
    "iris": ("/audit", "/audit?refused=true", "/audit/40", "/inbox", "/runs/{run}"),
    "omar": (
        "/profiles",
        "/profiles/default?call=network+GET+https://example.org/",
        "/profiles/python-service",
        "/publish",
        "/operate",
    ),
    "eve": ("/people", "/people/ben", "/operate"),
}


def problems_of(page: Page) -> list[str]:
    """What axe-core finds. It runs through the debugger, so that the page's own policy stays as it is."""
    page.evaluate(AXE + "; undefined")
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [f"{one['id']}: {one['nodes'][0]['html'][:160]}" for one in found["violations"]]


EVERYBODY, DECIDING = tuple(PAGES), ("ben", "iris")


@pytest.mark.parametrize(
    ("width", "theme", "people"),
    [(1440, "light", EVERYBODY), (390, "dark", EVERYBODY), (1440, "dark", DECIDING), (390, "light", DECIDING)],
)
def test_every_page_of_every_role(site: Site, width: int, theme: str, people: tuple[str, ...]) -> None:
    run = site.run_of("Round half")
    found: dict[str, list[str]] = {}
    for who in people:
        paths = PAGES[who]
        page: Page | None = None
        for path in paths:
            address = path.format(run=run)
            if page is None:
                page = site.open(who, address, width=width, theme=theme)
            else:
                page.goto(site.url + address)
            wrong = problems_of(page)
            room = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
            if room[0] > room[1]:
                wrong.append(f"it is {room[0]} wide in a window of {room[1]}")
            if page.locator("h1").count() != 1 and who:
                wrong.append("it has no single heading")
            if wrong:
                found[f"{who} {path}"] = wrong
    assert not found, "\n".join(f"{where}: {wrong}" for where, wrong in found.items())
    assert {urlsplit(address).netloc for address in site.seen} == {urlsplit(site.url).netloc}
    assert [said for said in site.reports if "404" not in said] == []


def test_first_load_is_small(site: Site) -> None:
    page = site.open("ben", "/inbox")
    size = 0
    for address in dict.fromkeys(site.seen):
        if "events" in address:
            continue
        answer = page.request.get(address, headers={"accept-encoding": "gzip"})
        size += int(answer.headers.get("content-length", "0"))
    assert 0 < size <= 100_000


def test_reading_and_deciding_need_no_script(site: Site) -> None:
    page = site.open("ben", "/inbox/8", has_scripts=False)
    findings = page.locator("[data-finding]").count()
    assert findings > 0
    assert page.get_by_role("button", name="Locked").is_disabled()
    for number in range(1, findings + 1):
        page.locator(f"[data-finding='{number}']").click()
    page.get_by_role("button", name="Approve once").click()
    assert page.get_by_role("status").inner_text().startswith("E-8 approved")


def test_the_keyboard_alone_decides(site: Site) -> None:
    page = site.open("ben", "/inbox")
    assert page.locator("#card-title").inner_text().startswith("E-5")
    page.keyboard.press("j")
    page.wait_for_url("**/inbox/8")
    page.keyboard.press("a")
    page.keyboard.press("a")
    assert page.locator(".slip[aria-current]").inner_text().startswith("E-8")
    page.keyboard.press("j")
    page.wait_for_url("**/inbox/4")
    page.keyboard.press("a")
    assert page.locator("button.armed").inner_text().startswith("Approve once")
    page.keyboard.press("a")
    page.wait_for_url("**/inbox?done=4")
    assert "approved" in page.get_by_role("status").inner_text()
    page.keyboard.press("?")
    assert page.locator("dialog").is_visible()
    page.keyboard.press("Escape")
    page.goto(site.url + "/inbox/5")
    page.keyboard.press("e")
    assert page.locator("#arguments").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("d")
    page.keyboard.press("d")
    page.wait_for_url("**/inbox?done=5")
    assert "denied" in page.get_by_role("status").inner_text()


def test_a_card_that_changed_under_me_says_so_and_takes_no_key(site: Site) -> None:
    first, second = site.open("ben", "/inbox/5"), site.open("cleo", "/inbox/5")
    second.keyboard.press("d")
    second.keyboard.press("d")
    second.wait_for_url("**/inbox?done=5")
    first.locator("#stale").wait_for(state="visible")
    first.keyboard.press("d")
    first.keyboard.press("d")
    assert first.url.endswith("/inbox/5")
    assert first.get_by_role("button", name="Deny", exact=False).first.is_disabled()
    first.get_by_role("link", name="Look at it again").click()
    assert "denied" in first.locator(".card-head").inner_text()


def test_the_inbox_grows_by_itself(site: Site) -> None:
    page = site.open("ben", "/inbox/4")
    other = site.open("ben", "/inbox/8")
    before = page.locator(".slip").count()
    other.keyboard.press("d")
    other.keyboard.press("d")
    other.wait_for_url("**/inbox?done=8")
    page.wait_for_selector("#slip-8", state="detached")
    assert page.locator(".slip").count() == before - 1
    assert not page.locator("#stale").is_visible()


def test_news_that_never_pause_are_shown_all_the_same(site: Site) -> None:
    page = site.open("ben", "/inbox/4")
    page.wait_for_selector("html[data-ready=yes]")
    with site.chatter():
        page.wait_for_selector("html[data-refreshed]")
