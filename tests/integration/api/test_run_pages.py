"""A run's page at any length: what is long is windowed, says how much is left out, and is all there on its own page."""

from __future__ import annotations

import re
from html import unescape

import pytest
from sqlalchemy import select, update

from ringfence.api.steps import WINDOW
from ringfence.console.board_pages import OUTPUT_SHOWN
from ringfence_tools.schema import calls
from tests.integration.api.world import HARMLESS, World

LONG = "".join(f"line {n} of much\n" for n in range(4_000))


async def a_call(world: World) -> str:
    """The place of a call of the team billing whose output is `LONG`."""
    run = (await world.card(HARMLESS)).key.run

    def find() -> str:
        query = select(calls.c.turn, calls.c.idx).where(calls.c.run == run, calls.c.state == "done")
        row = world.store.read_now(lambda c: c.execute(query.limit(1)).one())
        return f"{row.turn}/{row.idx}"

    place = find()
    turn, index = place.split("/")
    where = (calls.c.run == run) & (calls.c.turn == int(turn)) & (calls.c.idx == int(index))
    await world.store.write(lambda tx: tx.connection.execute(update(calls).where(where).values(result_text=LONG)))
    return f"/runs/{run}/calls/{place}"


@pytest.mark.parametrize("who", ["dana", "ben"])
async def test_another_teams_call_and_one_that_is_not_are_the_same(world: World, who: str) -> None:
    place = await a_call(world)
    asked = place if who == "dana" else f"{place.rpartition('/')[0]}/999"
    answer = await (await world.person(who)).get(asked)
    assert answer.status_code == 404
    assert "line 1 of much" not in answer.text


async def test_a_long_output_is_windowed_in_its_run_and_says_how_much_is_left_out(world: World) -> None:
    place = await a_call(world)
    page = (await (await world.person("ben")).get(place.partition("/calls/")[0])).text
    assert f"{len(LONG)} characters" in page
    assert f"{len(LONG) - 2 * WINDOW} more characters" in page
    assert f'href="{place}"' in page
    assert "line 0 of much" in page
    assert "line 3999 of much" in page
    assert "line 2000 of much" not in page


async def test_all_of_a_long_output_is_on_its_own_page_piece_by_piece(world: World) -> None:
    path, read = await a_call(world), ""
    ben = await world.person("ben")
    while path:
        page = (await ben.get(path)).text
        shown = re.findall(r'<pre class="bytes" tabindex="0">(.*?)</pre>', page, re.DOTALL)[-1]
        assert len(unescape(shown)) <= OUTPUT_SHOWN
        read += unescape(shown)
        more = re.search(r'href="([^"]+)">further', page)
        path = more[1] if more else ""
    assert read == LONG
