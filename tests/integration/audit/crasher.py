"""A process that writes to a log until it is killed, and says on standard output what was acknowledged."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from ringfence_audit.events import Event, Kind
from ringfence_audit.keys import Signer
from ringfence_audit.store import SqlStore

PRODUCERS = 8


async def main(folder: Path, life: str) -> None:
    signer = Signer.load_or_create(folder / "audit.key", "crash.example/log")
    with SqlStore.open(f"sqlite:///{folder}/log.db", signer=signer) as store:
        store.create_schema()
        print("ready", flush=True)

        async def produce(producer: int) -> None:
            number = 0
            while True:
                name = f"{life}/{producer}/{number}"
                body = "large " * 900 if number % 7 == 3 else "small"
                event = Event(Kind.GAP, "system:crash", {"name": name, "text": body + name}, f"r{producer}")
                await store.write(lambda tx, event=event: tx.record(event))  # type: ignore[misc]  # bound per turn
                print(name, flush=True)
                number += 1

        await asyncio.gather(*(produce(producer) for producer in range(PRODUCERS)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
