"""What an operator plots and is woken by, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from sqlalchemy import Connection, func, select

from ringfence.api.access import Caller, HouseHere, require
from ringfence.api.house import House
from ringfence.api.operating import Operations, operations
from ringfence.api.problems import documented
from ringfence.auth.roles import EVERY_TEAM, Permission
from ringfence_agents.runs import RunState
from ringfence_audit.stream import cursors_of
from ringfence_tools.escalations import EscalationState
from ringfence_tools.schema import escalations

router = APIRouter(tags=["system"])


_TEXT: dict[int | str, dict[str, object]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}


@router.get("/metrics", response_class=Response, responses=_TEXT | documented(401, 403))
async def metrics(request: Request, house: HouseHere, identity: Caller) -> Response:
    """Gauges of all teams together, so that the token must belong to somebody who operates every team."""
    await require(request, identity, Permission.OPERATE, EVERY_TEAM)
    found = await house.store.read(lambda connection: _measure(connection, house))
    registry = CollectorRegistry()
    registry.register(_Gauges(found))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


@dataclass(frozen=True, slots=True)
class _Measured:
    now_us: int
    operations: Operations
    waiting: int
    waiting_since_us: int | None
    feeds: dict[str, int]


def _measure(connection: Connection, house: House) -> _Measured:
    is_open = escalations.c.state == EscalationState.OPEN.value
    oldest = select(func.count(), func.min(escalations.c.opened_at)).where(is_open)
    waiting, since = connection.execute(oldest).one()
    return _Measured(house.now_us(), operations(connection, house), waiting, since, cursors_of(connection))


class _Gauges(Collector):
    def __init__(self, measured: _Measured) -> None:
        self._measured = measured

    def collect(self) -> Iterator[Metric]:
        found, seen = self._measured.operations, self._measured
        states = [(state.value, found.states.get(state.value, 0)) for state in RunState]
        yield _labelled("ringfence_runs", "Runs by state.", "state", states)
        queued_s = self._age_s(found.oldest_queued_at)
        yield GaugeMetricFamily("ringfence_queue_oldest_seconds", "Age of the oldest queued run.", queued_s)
        yield GaugeMetricFamily("ringfence_workers", "Workers that hold runs.", len(found.workers))
        late_s = max((worker.late_s for worker in found.workers), default=0)
        yield GaugeMetricFamily("ringfence_worker_late_seconds", "How long ago the oldest lease ran out.", late_s)
        yield GaugeMetricFamily("ringfence_sandboxes", "Sandboxes that runs hold.", len(found.sandboxes))
        yield GaugeMetricFamily("ringfence_escalations_open", "Escalations that wait for people.", seen.waiting)
        open_s = self._age_s(seen.waiting_since_us)
        yield GaugeMetricFamily("ringfence_escalation_oldest_seconds", "Age of the oldest open escalation.", open_s)
        yield GaugeMetricFamily("ringfence_log_entries", "Entries in the log.", found.entries)
        lags = [(name, max(found.entries - at, 0)) for name, at in sorted(seen.feeds.items())]
        yield _labelled("ringfence_log_feed_lag_entries", "Entries that a collector has yet to take.", "feed", lags)
        yield GaugeMetricFamily("ringfence_news_late_seconds", "Since the log was last looked at.", found.news_late_s)
        yield GaugeMetricFamily("ringfence_event_streams", "Open event streams.", found.streams)
        yield GaugeMetricFamily("ringfence_state_free_bytes", "Space left where state is kept.", found.free_bytes)

    def _age_s(self, since_us: int | None) -> float:
        return 0.0 if since_us is None else max(self._measured.now_us - since_us, 0) / 1_000_000


def _labelled(name: str, text: str, label: str, values: Iterable[tuple[str, float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, number in values:
        family.add_metric([value], number)
    return family
