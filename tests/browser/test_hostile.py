"""Hostile text through every field that a model, a tool, a repository or a person fills: nothing runs, nothing breaks
the frame, nothing imitates, on any page."""

from __future__ import annotations

import asyncio
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
from sqlalchemy import update

from ringfence.auth.schema import people
from ringfence_agents.schema import messages, runs, tasks
from ringfence_audit.port import Transaction
from ringfence_tools.schema import calls, escalations
from tests.browser.conftest import Site

pytestmark = pytest.mark.browser

_SEEDS = (
    "<script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "<svg onload=\"document.title='owned'\">",
    "\"><script>document.title='owned'</script>",
    "'-document.title='owned'-'",
    "javascript:document.title='owned'",
    "{{ 7 * 7 }}{% for x in y %}",
    "${7*7} #{7*7} <%= 7*7 %>",
    "</textarea><script>document.title='owned'</script>",
    "</title><script>document.title='owned'</script>",
    "<iframe srcdoc=\"<script>top.document.title='owned'</script>\">",
    "<style>body{display:none}</style>",
    "<form action=https://evil.example><button id=approve>Approve once</button>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<base href=https://evil.example/>",
    "<link rel=stylesheet href=https://evil.example/x.css>",
    "\x1b[2J\x1b[1;1H\x1b[31mowned\x1b[0m\x1b]0;owned\x07",
    "\u202egnp.exe\u202c \u2066hidden\u2069",
    "zero\u200bwidth\u200djoiner\ufeff\u2060",
    "=cmd|' /C calc'!A0",
    "@SUM(1+1)*cmd",
    "\u0000\u0001\u0008 control \u007f",
    "a" * 5_000,
    "W" * 300 + "\u0300" * 500,
    "\u4f60\u597d" * 200,
    "\n" * 300 + "below",
    "&lt;b&gt;&#x3c;script&#x3e;",
    "data:text/html,<script>document.title='owned'</script>",
    "<a href='javascript:document.title=1'>E-1 approved</a>",
    "<math><mtext></table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=document.title=1&gt;'>",
)


def payloads() -> list[str]:
    """500 of them: each seed alone, doubled, and inside every other."""
    mixed = (f"{first} {second}" for first, second in itertools.product(_SEEDS, _SEEDS) if first != second)
    return [*_SEEDS, *itertools.islice(mixed, 500 - len(_SEEDS))]


def fill(site: Site) -> None:
    found = payloads()
    everything = " | ".join(found)
    big = "<b>" + "x" * (5 << 20)

    def work(tx: Transaction) -> None:
        c = tx.connection
        c.execute(update(tasks).values(text=everything[:30_000], repository=found[3]))
        c.execute(update(runs).values(detail=everything[:20_000], profile=found[1], model=found[2]))
        c.execute(update(messages).values(body=json.dumps({"content": everything, "author": found[0]})))
        c.execute(update(calls).values(tool=found[1], arguments_text=json.dumps({"command": everything})))
        c.execute(update(calls).where(calls.c.result_text.is_not(None)).values(result_text=everything + big))
        card = {
            "headline": found[0], "needs": found[1], "runs": found[:200], "runs_lines": 200, "runs_bytes": 9999,
            "opens": found[:50], "sends": found[2], "why": found[4], "task": everything[:4000],
            "agent_says": everything[:4000], "before": found[5], "digest": found[6], "grant": found[7],
            "findings": [{"code": "HIDDEN", "summary": text, "details": [text]} for text in found[:30]],
        }  # fmt: skip
        c.execute(update(escalations).values(card=json.dumps(card), requester=found[0], tool=found[1]))
        c.execute(update(people).where(people.c.name == "ben").values(display=found[0] + found[17]))

    with ThreadPoolExecutor(1) as elsewhere:
        elsewhere.submit(lambda: asyncio.run(site.store.write(work))).result()


@pytest.mark.parametrize("width", [1440, 390])
def test_nothing_that_others_wrote_acts_on_a_page(site: Site, width: int) -> None:
    run = site.run_of("Round half")
    fill(site)
    wrong = []
    for who, paths in {
        "ben": ("/inbox", "/inbox/5", "/board", f"/runs/{run}", f"/runs/{run}/result", "/me"),
        "iris": ("/audit", "/audit?words=%3Cscript%3E&person=%22%3E%3Cimg%20src=x%20onerror=alert(1)%3E", "/audit/40"),
        "omar": ("/operate", "/profiles/default?call=%3Cscript%3Ealert(1)%3C/script%3E"),
        "eve": ("/people", "/people/ben"),
    }.items():
        page = site.open(who, paths[0], width=width)
        page.on("dialog", lambda dialog: wrong.append(f"a dialog: {dialog.message}"))
        for path in paths:
            page.goto(site.url + path)
            room = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
            if room[0] > room[1]:
                wrong.append(f"{path}: {room[0]} wide in {room[1]}")
            if "owned" in page.title() and "Ringfence" not in page.title():
                wrong.append(f"{path}: its title was taken")
            if page.locator("script").count() != 1 or page.locator("iframe, base, object").count():
                wrong.append(f"{path}: something was planted")
            hidden = page.evaluate(
                "/[\\u202a-\\u202e\\u2066-\\u2069\\u200b\\u200d\\ufeff]/.test(document.body.innerText)"
            )
            if hidden:
                wrong.append(f"{path}: invisible characters reach the page")
            if not page.locator("h1").is_visible():
                wrong.append(f"{path}: its heading is gone")
    assert wrong == []
    assert {urlsplit(address).netloc for address in site.seen} == {urlsplit(site.url).netloc}
    assert [said for said in site.reports if "Content Security" in said or "Trusted" in said] == []
