"""Two streams joined: one that never waits leaves the others their turn."""

from __future__ import annotations

import asyncio

from ringfence_sandbox.egress.pipes import pipe

PIECES = 200


class Ready:
    """Has `left` pieces at once, and takes whatever it is given."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.taken = 0

    async def receive(self) -> bytes:
        self.left -= 1
        return b"x" if self.left >= 0 else b""

    async def send(self, data: bytes) -> None:
        self.taken += len(data)

    async def send_eof(self) -> None:
        return

    def close(self) -> None:
        return


async def test_a_flood_that_never_waits_leaves_others_their_turn() -> None:
    turns = 0
    piping = asyncio.create_task(pipe(Ready(PIECES), sink := Ready(0), idle_s=60))
    while not piping.done():
        turns += 1
        await asyncio.sleep(0)
    await piping
    assert sink.taken == PIECES
    assert turns >= PIECES
