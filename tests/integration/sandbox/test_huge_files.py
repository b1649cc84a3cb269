"""Files without content can have any size: nobody waits for one, and no change in one goes unseen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import PurePosixPath

import pytest

from ringfence_sandbox.contract import (
    Backend,
    Bundle,
    Ending,
    Exec,
    Limits,
    Outcome,
    Recall,
    SandboxId,
    SandboxSpec,
    Write,
)
from tests.contracts.sandbox.conftest import Box

pytestmark = pytest.mark.sandbox

SCRIPT = "printf '#!/bin/sh\\necho ran\\nexit 0\\n' > x; chmod 755 x; "
WITHIN_S = 20
"""Hashing a tebibyte byte by byte takes a quarter of an hour."""


@pytest.fixture
async def roomy(backend: Backend, bundle: Bundle) -> AsyncIterator[Box]:
    spec = SandboxSpec(SandboxId("roomy-1"), limits=Limits(file_size_bytes=2 << 40))
    sandbox = await backend.create(spec)
    await sandbox.load(bundle)
    yield Box(backend, spec, sandbox)
    await backend.destroy(spec.id)


async def digest_of(box: Box, name: str) -> str:
    async with asyncio.timeout(WITHIN_S):
        (found,) = [file.sha256 for file in await box.sandbox.changed() if file.path == name]
    return found


async def test_what_was_changed_in_a_file_of_a_tebibyte_is_refused(roomy: Box) -> None:
    assert (await roomy.sh(SCRIPT + "truncate -s 1T x")).exit_code == 0
    approved = {"/workspace/x": await digest_of(roomy, "x")}
    run = Exec(roomy.call(), 1, ("./x",), sealed=approved)
    for change in ("printf echo | dd of=x bs=1 seek=800G conv=notrunc", "truncate -s 1025G x", "touch y; mv y x"):
        assert (await roomy.sh(f"cp --sparse=always x kept; {change}")).exit_code == 0
        async with asyncio.timeout(WITHIN_S):
            outcome = await roomy.sandbox.perform(replace(run, call_id=roomy.call()))
        assert (outcome.ending, outcome.detail) == (Ending.REFUSED, "/workspace/x: changed since it was approved")
        assert (await roomy.sh("mv kept x")).exit_code == 0


async def test_an_approved_file_of_a_tebibyte_runs(roomy: Box) -> None:
    assert (await roomy.sh(SCRIPT + "truncate -s 1T x")).exit_code == 0
    approved = {"/workspace/x": await digest_of(roomy, "x")}
    async with asyncio.timeout(WITHIN_S):
        outcome = await roomy.sandbox.perform(Exec(roomy.call(), 1, ("./x",), sealed=approved))
    assert (outcome.ending, outcome.head) == (Ending.DONE, b"ran\n")


async def test_others_are_answered_while_an_approved_file_is_hashed(roomy: Box) -> None:
    assert (await roomy.sh(SCRIPT + "truncate -s 1G x")).exit_code == 0
    approved = {"/workspace/x": await digest_of(roomy, "x")}
    running = asyncio.create_task(roomy.sandbox.perform(Exec(roomy.call(), 1, ("./x",), sealed=approved)))
    for _ in range(2):  # what is asked first is on its way before the second
        await roomy.sandbox.list(PurePosixPath("."))
    assert not running.done()
    assert (await running).head == b"ran\n"


async def test_a_call_that_is_given_up_while_its_file_is_hashed_never_runs(roomy: Box) -> None:
    assert (
        await roomy.sh("printf '#!/bin/sh\\n: > ran\\nexit 0\\n' > x; chmod 755 x; truncate -s 1G x")
    ).exit_code == 0
    approved = {"/workspace/x": await digest_of(roomy, "x")}
    run = Exec(roomy.call(), 1, ("./x",), sealed=approved)
    running = asyncio.create_task(roomy.sandbox.perform(run))
    await roomy.sandbox.list(PurePosixPath("."))
    await roomy.sandbox.list(PurePosixPath("."))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    async with asyncio.timeout(WITHIN_S):
        while (told := await roomy.sandbox.recall(run.call_id)) is Recall.NEVER_STARTED:
            await roomy.sandbox.list(PurePosixPath("."))
    assert isinstance(told, Outcome)
    assert (told.ending, told.detail) == (Ending.SIGNALED, "cancelled")
    assert await roomy.says("ls ran 2>&1") == "ls: cannot access 'ran': No such file or directory"


async def test_a_file_of_a_tebibyte_is_not_replaced_in_passing(roomy: Box) -> None:
    assert (await roomy.sh("truncate -s 1T x")).exit_code == 0
    async with asyncio.timeout(WITHIN_S):
        whole = await roomy.sandbox.read(PurePosixPath("x"), limit_bytes=10)
        action = Write(roomy.call(), 1, PurePosixPath("x"), b"small", expected_sha256=whole.sha256)
        outcome = await roomy.sandbox.perform(action)
    assert whole.size_bytes == 1 << 40
    assert outcome.ending is Ending.REFUSED
    assert "larger than" in outcome.detail
