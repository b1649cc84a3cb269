"""The gauges: who may read them, and that they say what is so."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ringfence.auth.roles import Permission
from ringfence_audit.stream import move
from tests.integration.api.world import HARMLESS, HIDING, QUESTION, REWRITTEN, SHOP_HARMLESS, SHOP_SENDING, World

OPEN = (HARMLESS, HIDING, SHOP_HARMLESS, SHOP_SENDING, REWRITTEN, QUESTION)


@pytest.mark.parametrize("name", ["ben", "ana"])
async def test_who_does_not_operate_every_team_reads_no_gauges(world: World, name: str) -> None:
    assert (await world.stranger().get("/metrics")).status_code == 401
    answer = await (await world.program(name)).get("/metrics")
    assert (answer.status_code, answer.json()["code"]) == (403, "denied")
    assert "ringfence_runs" not in answer.text


async def test_the_gauges_are_those_of_the_tables(world: World) -> None:
    await world.store.write(lambda tx: move(tx, "siem", 3))
    scraper = await world.program("omar", Permission.OPERATE)
    answer = await scraper.get("/metrics", headers={"host": "10.0.0.7:8600"})
    assert answer.status_code == 200, answer.text
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert found["ringfence_escalations_open",] == len(OPEN)
    assert found["ringfence_escalation_oldest_seconds",] > 0
    assert found["ringfence_log_feed_lag_entries", "siem"] == found["ringfence_log_entries",] - 3
    assert found["ringfence_runs", "parked"] > 0
    assert found["ringfence_state_free_bytes",] > 0
