"""What every handler of the API and the console is given: the store, who vouches for people, and where we are reached.

One value, made in `serving` (or by a test), kept on the application; no handler reads settings or clocks by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ringfence.api.catalogue import Catalogue
from ringfence.api.feed import Feed
from ringfence.api.log_index import LogIndex
from ringfence.api.origin import LOOPBACK, Origin
from ringfence.api.verdicts import Verdicts
from ringfence.auth.provider import Provider
from ringfence.auth.refusals import Refusals
from ringfence.auth.sealing import Seal
from ringfence.settings import Settings
from ringfence.wiring import Workshop
from ringfence_audit.store import SqlStore
from ringfence_tools.clock import micros
from ringfence_tools.toolbox import Toolbox

__all__ = ["LOOPBACK", "House", "Origin"]


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class House:
    """`workshop` is None where no task can be assigned from here (a read-only replica, a test)."""

    settings: Settings
    store: SqlStore
    seal: Seal
    toolbox: Toolbox
    origin: Origin
    feed: Feed
    verdicts: Verdicts
    workshop: Workshop | None = None
    clock: Callable[[], datetime] = field(default=_now)
    catalogue: Catalogue = field(default_factory=Catalogue)
    refusals: Refusals = field(default_factory=Refusals)
    index: LogIndex | None = None
    """Where entries are found; without one, questions to the log are answered piece by piece."""
    provider: Provider | None = None
    """Where people log in beside, or instead of, a local password."""

    def now_us(self) -> int:
        return micros(self.clock())

    @property
    def session_cookie(self) -> str:
        """`__Host-` binds a cookie to this host and to TLS; without TLS (localhost) no browser would keep it."""
        return "__Host-ringfence" if self.origin.is_secure else "ringfence"
