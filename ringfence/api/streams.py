"""Server-sent events over the feed: each carries the position of its entry as its id, so that nothing is missed.

A browser that comes back sends `Last-Event-ID` and gets what it missed first. What a stream may show is asked again
once a minute, busy or not, so that an ended session ends its streams.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated

from fastapi import Header
from fastapi.responses import StreamingResponse

from ringfence.api.feed import Feed, Interest, News, Stream

BEAT_S = 15.0
CHECK_S = 60.0
LastEvent = Annotated[int | None, Header(alias="Last-Event-ID", ge=-1, le=2**53)]
StillMay = Callable[[], Awaitable[bool]]
EVENTS: dict[int | str, dict[str, object]] = {
    200: {
        "description": "Server-sent events: `entry` for each entry, `reload` where some were left out",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


def stream(feed: Feed, interest: Interest, *, after: int | None, still_may: StillMay) -> StreamingResponse:
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    body = events(feed, interest, after=after, still_may=still_may)
    return StreamingResponse(body, media_type="text/event-stream", headers=headers)


async def events(
    feed: Feed, interest: Interest, *, after: int | None, still_may: StillMay, check_s: float = CHECK_S
) -> AsyncIterator[bytes]:
    """What the stream sends: first what was missed behind `after`, then each entry as it becomes durable."""
    with feed.listen(interest) as listening:
        told = feed.position if after is None else after
        yield f"retry: 2000\nid: {told}\n\n".encode()
        if after is not None:
            async for news in feed.missed(interest, after):
                told = max(told, news.position)
                yield _event(news)
        async for event in _live(listening, told, still_may, check_s=check_s):
            yield event


async def _live(listening: Stream, told: int, still_may: StillMay, *, check_s: float) -> AsyncIterator[bytes]:
    checked = time.monotonic()
    while True:
        news: News | None = None
        is_beat = False
        try:
            async with asyncio.timeout(BEAT_S):
                news = await listening.queue.get()
        except TimeoutError:
            is_beat = True
        if time.monotonic() - checked >= check_s:
            if not await still_may():
                return
            checked = time.monotonic()
        if is_beat:
            yield b": beat\n\n"
        elif news is None:
            return
        elif news.position == -1 or news.position > told:
            told = max(told, news.position)
            yield _event(news)


def _event(news: News) -> bytes:
    if news.position == -1:
        return b"event: reload\ndata: {}\n\n"
    data = {"position": news.position, "kind": news.kind, "run": news.run, "call": news.call}
    if news.escalation is not None:
        data["escalation"] = news.escalation
    return f"id: {news.position}\nevent: entry\ndata: {json.dumps(data)}\n\n".encode()
