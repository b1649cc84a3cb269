"""The OpenAPI document, tried as each role with requests that follow it and requests that do not (Schemathesis)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any  # the library's own parameters

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.core.result import Err
from schemathesis.python.asgi import HOST

from ringfence.api.app import create_app
from ringfence.api.house import Origin
from ringfence.auth import people, tokens
from ringfence.auth.identity import Membership
from ringfence.auth.roles import Permission, Role
from ringfence_audit.port import Transaction
from tests.integration.api.world import copied, house_at, store_at

EXAMPLES = 2
NOT_TRIED = {"inbox_events", "run_events", "log_in", "log_out"}
"""Streams do not end; the other two are about the caller's own session, and are tried in test_doors."""


@pytest.mark.parametrize("role", ["member", "reviewer", "auditor", "platform", "admin", "service"])
def test_the_api_keeps_to_its_document(seeded: Path, tmp_path: Path, role: str) -> None:
    folder = copied(seeded, tmp_path / "home")
    with store_at(folder) as store:
        token = asyncio.run(store.write(lambda tx: _caller(tx, role)))
        house = replace(house_at(folder, store), origin=Origin("http", HOST, 80))
        schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(house))
        failures = []
        for result in schema.get_all_operations():
            assert not isinstance(result, Err)
            operation = result.ok()
            name = str(operation.definition.raw.get("operationId", ""))
            if name in NOT_TRIED or not operation.path.startswith("/api/"):
                continue
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                found = _try(operation, mode, token)
                if found:
                    failures.append(f"{name} ({mode.value}): {found}")
    assert not failures, "\n\n".join(failures)


def _caller(tx: Transaction, role: str) -> str:
    is_service = role == "service"
    people.create_person(tx, "caller", by="system:test", kind="service" if is_service else "person")
    held = Role.MEMBER if is_service else Role(role)
    people.set_places(tx, "caller", by="system:test", roles=[Membership("*", held)], groups=[])
    made = tokens.create(tx, "caller", by="system:test", scopes=list(Permission), label="test", days=1)
    return str(made)


def _try(operation: schemathesis.APIOperation[Any, Any, Any, Any], mode: GenerationMode, token: str) -> str:
    """The first failure of any check, or "" for none."""
    headers = {"Authorization": f"Bearer {token}"}

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def attempt(case: Case[Any]) -> None:
        case.call_and_validate(headers=headers)

    try:
        attempt()
    except BaseExceptionGroup as group:
        return str(group.exceptions[0])[:1200]
    except Exception as error:  # noqa: BLE001 whatever a check found is what is collected
        return f"{type(error).__name__}: {error}"[:1200]
    return ""
