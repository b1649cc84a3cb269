"""A governed `true` (gate, Cedar, two durable entries, sandbox) against plain subprocesses, in one run.

The tool runs `bash -c true` and keeps its output, so that is what it is compared with; bare `/bin/true`, which needs
half the time to start, is printed beside it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ringfence_audit.keys import Signer
from ringfence_audit.store import SqlStore
from ringfence_sandbox.contract import Sandbox, SandboxId, SandboxSpec
from ringfence_sandbox.local.backend import LocalBackend
from ringfence_tools import ledger
from ringfence_tools.builtin.toolset import builtin_toolbox
from ringfence_tools.calls import ResultStatus, RunId
from ringfence_tools.gate import Gate
from ringfence_tools.gate_context import RunContext, Settled
from ringfence_tools.ledger import Proposal
from ringfence_tools.policy import Policy
from ringfence_tools.profile import load_profile
from ringfence_tools.progress import ignore

ROUNDS = 200
RUN = RunId("bench")


class Nobody:
    def groups_of(self, name: str, *, team: str) -> frozenset[str]:
        return frozenset()


@pytest.mark.bench
async def test_a_governed_true_against_a_subprocess(tmp_path: Path) -> None:
    toolbox = builtin_toolbox()
    backend = LocalBackend(tmp_path / "state")
    with SqlStore.open(f"sqlite:///{tmp_path}/log.db", signer=Signer.generate("bench.example/log")) as store:
        store.create_schema()
        gate = Gate(store, Policy.compile(load_profile("default")), toolbox, Nobody())
        sandbox = await backend.create(SandboxSpec(SandboxId("bench-1")))

        async def live() -> Sandbox:
            return sandbox

        context = RunContext(RUN, "agent:bench", "ana", 1, lambda _: None, live, ignore)
        bare, plain, governed = [], [], []
        for turn in range(1, ROUNDS + 1):
            bare.append(_timed(lambda: subprocess.run(["/bin/true"], check=True)))
            plain.append(_timed(lambda: subprocess.run(["bash", "-c", "true"], check=True, capture_output=True)))
            proposal = Proposal("c", "shell", json.dumps({"command": "true"}))
            rows = await store.write(
                lambda tx, turn=turn, proposal=proposal: ledger.propose(  # type: ignore[misc]  # bound per round
                    tx, RUN, turn, [proposal], is_read_only=toolbox.is_read_only
                )
            )
            start = time.perf_counter()
            step = await gate.step(rows[0].key, context, seen=rows[0])
            governed.append(time.perf_counter() - start)
            assert isinstance(step, Settled)
            assert step.result.status is ResultStatus.OK
        await backend.destroy(SandboxId("bench-1"))
    await backend.close()
    print(f"\ngoverned `true` p50 {_ms(governed)} (reach: <= 3 times a plain subprocess)")
    for name, plainly in (("bash -c true", plain), ("/bin/true", bare)):
        print(f"  {statistics.median(governed) / statistics.median(plainly):.2f} times `{name}` ({_ms(plainly)})")


@pytest.mark.bench
def test_how_long_help_takes() -> None:
    command = [sys.executable, "-m", "ringfence", "--help"]
    runs = [_timed(lambda: subprocess.run(command, check=True, capture_output=True)) for _ in range(15)]
    print(f"\nringfence --help p50 {_ms(runs)} (reach: <= 200 ms)")


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _ms(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1000:.2f} ms"
