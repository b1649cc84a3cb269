"""Whether this process is alive, and whether it can do its work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine

from fastapi import APIRouter, Response

from ringfence.api.access import HouseHere
from ringfence.api.forms.shape import Answered
from ringfence.api.house import House
from ringfence_audit.errors import LogUnavailable

router = APIRouter(tags=["system"])
WITHIN_S = 2.0
FEED_LATE_S = 10.0


class Health(Answered):
    ok: bool


class Readiness(Answered):
    """`checks`: what was tried, and "" or what is wrong with it."""

    ok: bool
    checks: dict[str, str]


@router.get("/healthz")
async def healthz() -> Health:
    """The process answers. Says nothing of what it depends on."""
    return Health(ok=True)


@router.get("/readyz", responses={503: {"model": Readiness}})
async def readyz(house: HouseHere, response: Response) -> Readiness:
    """It can read and write the log, its news are fresh, and the log's last verdict is good."""
    checks = {
        "write": await _within(_write(house)),
        "read": await _within(_read(house)),
        "news": _news(house),
        "log": _log(house),
    }
    is_ready = not any(checks.values())
    response.status_code = 200 if is_ready else 503
    return Readiness(ok=is_ready, checks=checks)


async def _within(check: Coroutine[object, object, None]) -> str:
    try:
        async with asyncio.timeout(WITHIN_S):
            await check
    except TimeoutError:
        return f"no answer within {WITHIN_S:g} s"
    except LogUnavailable as error:
        return str(error)[:300]
    return ""


async def _write(house: House) -> None:
    await house.store.write(lambda tx: None)


async def _read(house: House) -> None:
    await house.store.read(lambda connection: None)


def _news(house: House) -> str:
    late_s = time.monotonic() - house.feed.looked_at
    return "" if late_s < FEED_LATE_S else f"the log was not looked at for {late_s:.0f} s"


def _log(house: House) -> str:
    last = house.verdicts.last
    return last.text if last is not None and last.grade == "broken" else ""
