from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.api.world import World, copied, make_seeded, world_at


@pytest.fixture(scope="session")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seeded")
    make_seeded(folder)
    return folder


@pytest.fixture
async def world(seeded: Path, tmp_path: Path) -> AsyncIterator[World]:
    async with world_at(copied(seeded, tmp_path / "home")) as world:
        yield world
