"""The server has the user of what runs inside: no limit or rank of its is theirs to set."""

from __future__ import annotations

import pytest

from ringfence_sandbox.contract import Exec
from tests.contracts.sandbox.conftest import Box

pytestmark = pytest.mark.sandbox

ATTEMPTS = (
    "resource.prlimit(1, resource.RLIMIT_NOFILE, (0, 0))",
    "os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0))",
    "os.setpriority(os.PRIO_PROCESS, 1, 19)",
    "os.setpriority(os.PRIO_PGRP, 1, 19)",
    "os.setpriority(os.PRIO_USER, 0, 19)",
)
OWN = """
import os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
resource.prlimit(1, resource.RLIMIT_NOFILE)
os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
os.nice(5)
os.setpriority(os.PRIO_PROCESS, 0, 10)
print("well")
"""


async def python(box: Box, program: str) -> bytes:
    return (await box.sandbox.perform(Exec(box.call(), 1, ("python3", "-c", program)))).head


@pytest.mark.parametrize("attempt", ATTEMPTS)
async def test_no_command_sets_what_the_server_may_use(box: Box, attempt: str) -> None:
    assert b"PermissionError" in await python(box, f"import os, resource\n{attempt}")
    await box.sh("echo new > new")
    assert b"+new" in (await box.sandbox.diff()).data


async def test_a_command_sets_what_it_may_use_itself(box: Box) -> None:
    assert await python(box, OWN) == b"well\n"
