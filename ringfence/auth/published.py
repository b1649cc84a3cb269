"""What a log-in provider publishes, kept for a while: its discovery document and its keys."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from ringfence.auth.errors import LoginRefused

KEPT_S = 600.0
"""How long an answer is believed. Keys that a token does not fit are read anew sooner."""
AGAIN_S = 30.0
"""The least time between two requests for one address, also where the first one failed."""


class Web(Protocol):
    """How the provider is reached. Raises `OSError` where it does not answer."""

    async def get_json(self, url: str) -> Mapping[str, object]: ...

    async def post_form(self, url: str, form: Mapping[str, str]) -> Mapping[str, object]: ...


@dataclass(frozen=True, slots=True)
class _Answer:
    """What came back, or why nothing did, and when it was asked for."""

    at: float
    found: Mapping[str, object] | None
    refused: LoginRefused | None = None


class Published:
    """Two askers at once share one request. Use it on one event loop."""

    def __init__(self, web: Web, ticks: Callable[[], float]) -> None:
        self._web = web
        self._ticks = ticks
        self._answers: dict[str, _Answer] = {}
        self._lock = asyncio.Lock()

    async def get(self, url: str, *, is_doubted: bool = False) -> Mapping[str, object]:
        """`is_doubted`: what was kept did not fit, so read it anew where that is not too soon.

        Raises `LoginRefused` for an unusable answer and `OSError` where the provider does not answer; both are
        remembered for `AGAIN_S`.
        """
        async with self._lock:
            kept = self._answers.get(url)
            age_s = None if kept is None else self._ticks() - kept.at
            longest_s = AGAIN_S if is_doubted or kept is None or kept.found is None else KEPT_S
            if kept is None or age_s is None or age_s >= longest_s:
                kept = self._answers[url] = await self._ask(url)
        if kept.refused is not None:
            raise LoginRefused(kept.refused.message, fix=kept.refused.fix) from kept.refused
        if kept.found is None:
            raise OSError("the provider did not answer a moment ago")
        return kept.found

    async def _ask(self, url: str) -> _Answer:
        at = self._ticks()
        try:
            return _Answer(at, await self._web.get_json(url))
        except LoginRefused as error:
            return _Answer(at, None, error)
        except OSError:
            return _Answer(at, None)
