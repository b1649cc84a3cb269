"""News and event streams: in order, nothing missed, nothing of another team, and no stream that holds the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ringfence.api.feed import LOAD_ANEW, QUEUE, Feed, Interest, News, Stream
from ringfence.api.streams import events
from ringfence.auth.identity import Reach
from ringfence_audit.events import Event, Kind
from tests.integration.api.world import HARMLESS, SHOP_HARMLESS, World

BILLING = Interest(Reach(frozenset({"billing"})))


@asynccontextmanager
async def running(world: World) -> AsyncIterator[Feed]:
    feed = Feed(world.store, look_s=0.01)
    task = asyncio.create_task(feed.run())
    await feed.ready.wait()
    yield feed
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def say(world: World, number: int) -> None:
    card = await world.card(number)
    event = Event(Kind.VOTE, "person:ben", {"escalation": number}, card.key.run)
    await world.store.write(lambda tx: tx.record(event))


async def still() -> bool:
    return True


async def test_a_stream_never_hears_of_another_teams_cards(world: World) -> None:
    async with running(world) as feed:
        with feed.listen(BILLING) as listening:
            await say(world, SHOP_HARMLESS)
            await say(world, HARMLESS)
            news = await asyncio.wait_for(listening.queue.get(), 10)
    assert news is not None
    assert (news.team, news.escalation) == ("billing", HARMLESS)


async def test_what_was_missed_comes_first_and_nothing_twice(world: World) -> None:
    async with running(world) as feed:
        before = feed.position
        for _ in range(3):
            await say(world, HARMLESS)
        body = events(feed, BILLING, after=before, still_may=still)
        told = [await anext(body) for _ in range(4)]
        await say(world, HARMLESS)
        told.append(await asyncio.wait_for(anext(body), 10))
        feed.close()
    ids = [int(event.split(b"id: ")[1].split(b"\n")[0]) for event in told if b"entry" in event]
    assert ids == sorted(set(ids))
    assert len(ids) == 4


async def test_a_stream_ends_when_its_server_goes(world: World) -> None:
    async with running(world) as feed:
        body = events(feed, BILLING, after=None, still_may=still)
        await anext(body)
        feed.close()
        rest = [event async for event in body]
    assert rest == []


def test_a_stream_that_does_not_keep_up_is_told_to_load_anew() -> None:
    listening = Stream(BILLING)
    for position in range(QUEUE + 5):
        listening.offer(News(position))
    assert listening.queue.get_nowait() == LOAD_ANEW
    assert listening.queue.qsize() < QUEUE
