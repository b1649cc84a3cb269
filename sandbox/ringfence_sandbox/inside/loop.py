"""A small event loop over poll(2): descriptors and deadlines, nothing else. asyncio costs more to import than all."""

from __future__ import annotations

import select
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READ = select.POLLIN
WRITE = select.POLLOUT


class Timer:
    """A deadline on the monotonic clock. `cancel` makes it void."""

    __slots__ = ("act", "at")

    def __init__(self, at: float, act: Callable[[], None]) -> None:
        self.at = at
        self.act: Callable[[], None] | None = act

    def cancel(self) -> None:
        self.act = None


class Loop:
    """Calls back when a descriptor is ready or a deadline has passed. One thread; callbacks must not block."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._watched: dict[int, Callable[[int], None]] = {}
        self._timers: list[Timer] = []
        self._is_stopped = False

    def watch(self, fd: int, mask: int, act: Callable[[int], None]) -> None:
        """Call `act(events)` when `fd` is ready for `mask`, has hung up or failed. Replaces an earlier watch."""
        self._watched[fd] = act
        self._poll.register(fd, mask)

    def unwatch(self, fd: int) -> None:
        if self._watched.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def after(self, seconds: float, act: Callable[[], None]) -> Timer:
        timer = Timer(monotonic() + seconds, act)
        self._timers.append(timer)
        return timer

    def stop(self) -> None:
        self._is_stopped = True

    def run(self) -> None:
        """Until `stop` is called."""
        while not self._is_stopped:
            self._fire()
            if self._is_stopped:
                return
            wait_ms = None
            if self._timers:
                wait_ms = max(0.0, (min(timer.at for timer in self._timers) - monotonic()) * 1000 + 0.5)
            for fd, events in self._poll.poll(wait_ms):
                act = self._watched.get(fd)
                if act is not None:
                    act(events)

    def _fire(self) -> None:
        now = monotonic()
        due = [timer for timer in self._timers if timer.at <= now]
        self._timers = [timer for timer in self._timers if timer.at > now and timer.act is not None]
        for timer in due:
            if timer.act is not None:
                timer.act()
