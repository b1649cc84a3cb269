"""A server that the agent has taken over: whatever it sends is a clear error, in bounded memory and time."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from itertools import repeat
from pathlib import Path, PurePosixPath

import pytest

from ringfence_sandbox import served
from ringfence_sandbox.connection import ServerConnection
from ringfence_sandbox.contract import Bundle, CallId, Exec, Move, SandboxId, Write
from ringfence_sandbox.errors import ProtocolViolation, SandboxError, SandboxGone
from ringfence_sandbox.inside import wire
from ringfence_sandbox.served import ServedSandbox

GREETING = {"id": 0, "ready": True, "version": wire.VERSION, "layers": [], "fence": 0}
OUTCOME = {"ending": "done", "exit_code": 0, "head": 0}
ROOT = PurePosixPath("/workspace")
MEMORY_LIMIT = 48 << 20
ROUNDS = 250


def frame(header: object, body: bytes = b"") -> bytes:
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(head).to_bytes(4, "big") + len(body).to_bytes(4, "big") + head + body


def ok(**more: object) -> dict[str, object]:
    return {"id": 1, "ok": True, **more}


PART = {"id": 1, "part": True}
Ask = Callable[[ServedSandbox], Awaitable[object]]
ASKS: dict[str, Ask] = {
    "exec": lambda box: box.perform(Exec(CallId("r/1/1/n"), 1, ("true",), timeout_s=0.2, output_limit_bytes=1 << 16)),
    "write": lambda box: box.perform(Write(CallId("r/1/1/n"), 1, ROOT / "x", b"x")),
    "move": lambda box: box.perform(Move(CallId("r/1/1/n"), 1, ROOT / "x", ROOT / "y")),
    "recall": lambda box: box.recall(CallId("r/1/1/n")),
    "read": lambda box: box.read(ROOT / "x", limit_bytes=1 << 16),
    "list": lambda box: box.list(ROOT, limit=1000),
    "search": lambda box: box.search("x", ROOT, limit=1000),
    "changed": lambda box: box.changed(),
    "diff": lambda box: box.diff(),
    "prove": lambda box: box.prove(),
    "suspend": lambda box: box.suspend(),
}


@asynccontextmanager
async def hostile(sends: Iterable[bytes], *, greeting: bytes = b"") -> AsyncIterator[ServedSandbox]:
    """A sandbox whose server greets, waits for one request, and then sends these bytes."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    connection = await ServerConnection.over(ours)
    reader, writer = await asyncio.open_unix_connection(sock=theirs)

    async def serve() -> None:
        writer.write(greeting or frame(GREETING))
        await reader.read(1)
        try:
            for data in sends:
                writer.write(data)
                await writer.drain()
            await reader.read()
        except OSError:
            return
        finally:
            writer.close()

    serving = asyncio.create_task(serve())
    try:
        await connection.ready(timeout_s=5)
        yield ServedSandbox(SandboxId("hostile"), connection, ())
    finally:
        await connection.close()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "ANSWER_WITHIN_S", 0.3)


@pytest.fixture
def memory() -> Iterator[None]:
    tracemalloc.start()
    yield
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MEMORY_LIMIT


LISTS = ("list", "search", "changed", "prove")
ATTACKS: dict[str, tuple[tuple[str, ...], Callable[[], Iterable[bytes]]]] = {
    "a frame of four gigabytes": (tuple(ASKS), lambda: [b"\xff" * 8]),
    "a header without JSON": (tuple(ASKS), lambda: [frame(b"{]")]),
    "a header that is a list": (tuple(ASKS), lambda: [frame([1])]),
    "brackets without end": (tuple(ASKS), lambda: [frame(b'{"id":1,"ok":' + b"[" * 200_000)]),
    "a number of a hundred thousand digits": (
        tuple(ASKS),
        lambda: [frame(b'{"id":1' + b"0" * 100_000 + b',"ok":true}')],
    ),
    "not a number": (tuple(ASKS), lambda: [frame(b'{"id":1,"ok":true,"size_bytes":NaN}')]),
    "an answer to nobody": (tuple(ASKS), lambda: [frame({"id": 7, "ok": True})]),
    "an answer with a true id": (tuple(ASKS), lambda: [frame({"id": True, "ok": True})]),
    "a second greeting": (tuple(ASKS), lambda: [frame(GREETING)]),
    "neither part nor final": (tuple(ASKS), lambda: [frame({"id": 1})]),
    "an error without a kind": (tuple(ASKS), lambda: [frame({"id": 1, "ok": False})]),
    "an error of an unknown kind": (tuple(ASKS), lambda: [frame({"id": 1, "ok": False, "error": "x", "message": "m"})]),
    "half a character in an error": (
        tuple(ASKS),
        lambda: [frame(b'{"id":1,"ok":false,"error":"path","message":"\\ud800"}')],
    ),
    "parts without end": (
        ("read", "list", "search", "recall", "write"),
        lambda: repeat(frame(PART, bytes(1 << 20)), 400),
    ),
    "a body where none was asked for": (("write", "move", "suspend"), lambda: [frame(ok(outcome=OUTCOME), b"x")]),
    "an ending that does not exist": (("exec", "write"), lambda: [frame(ok(outcome={"ending": "root"}))]),
    "an exit code of a million": (("exec",), lambda: [frame(ok(outcome={**OUTCOME, "exit_code": 10**6}))]),
    "a negative length": (("exec",), lambda: [frame(ok(outcome={**OUTCOME, "head": -1}))]),
    "half a character in a detail": (
        ("exec",),
        lambda: [frame(b'{"id":1,"ok":true,"outcome":{"ending":"done","head":0,"detail":"\\udfff"}}')],
    ),
    "a detail of a hundred kilobytes": (("exec",), lambda: [frame(ok(outcome={**OUTCOME, "detail": "x" * 100_000}))]),
    "more output than was asked for": (
        ("exec",),
        lambda: [frame(PART, bytes(60_000)), frame(ok(outcome=OUTCOME), bytes(60_000))],
    ),
    "a list that is a number": (LISTS, lambda: [frame(PART, b"7\n"), frame(ok(is_truncated=False))]),
    "a list of lists": (LISTS, lambda: [frame(PART, b"[[]]\n"), frame(ok(is_truncated=False))]),
    "a list of empty lines": (
        ("list", "search", "changed"),
        lambda: [*repeat(frame(PART, b"\n" * (1 << 20)), 8), frame(ok(is_truncated=False))],
    ),
    "a line of ten million items": (
        ("list", "search", "changed"),
        lambda: [
            frame(PART, b"["),
            *repeat(frame(PART, b"{}," * 300_000), 12),
            frame(ok(is_truncated=False), b"{}]\n"),
        ],
    ),
    "an item without anything": (LISTS, lambda: [frame(PART, b"[{}]\n"), frame(ok(is_truncated=False))]),
    "a change in another place": (
        ("changed",),
        lambda: [frame(PART, b'[{"path":"../../etc/passwd","status":"added","sha256":""}]\n'), frame(ok())],
    ),
    "a change at an absolute path": (
        ("changed",),
        lambda: [frame(PART, b'[{"path":"/etc/passwd","status":"added","sha256":""}]\n'), frame(ok())],
    ),
    "a patch of no commit": (("diff",), lambda: [frame(ok(base_commit="HEAD"))]),
    "a watched file that is a number": (("diff",), lambda: [frame(ok(base_commit="0" * 40, watched=[7]))]),
    "a left-out file that is an object": (("diff",), lambda: [frame(ok(base_commit="0" * 40, left_out=[{}]))]),
    "more left out than is told": (("diff",), lambda: [frame(ok(base_commit="0" * 40, left_out=["x"] * 101))]),
    "a digest that is none": (("read",), lambda: [frame(ok(size_bytes=1, sha256="../../x"), b"x")]),
    "a size of a text": (("read",), lambda: [frame(ok(size_bytes="1", sha256=""), b"x")]),
    "a recall of an unknown word": (("recall",), lambda: [frame(ok(recall="maybe"))]),
}


@pytest.mark.parametrize(("attack", "ask"), [(attack, ask) for attack, (asks, _) in ATTACKS.items() for ask in asks])
async def test_an_attack_is_a_clear_error(attack: str, ask: str, memory: None) -> None:
    async with hostile(ATTACKS[attack][1]()) as box:
        async with asyncio.timeout(20):
            with pytest.raises(ProtocolViolation):
                await ASKS[ask](box)


async def test_silence_ends_with_the_calls_own_time() -> None:
    async with hostile([]) as box:
        async with asyncio.timeout(10):
            with pytest.raises(SandboxGone, match="did not answer"):
                await ASKS["exec"](box)
            with pytest.raises(SandboxGone):
                await ASKS["read"](box)


async def test_output_without_end_ends_with_the_calls_own_time(memory: None) -> None:
    taken = 0

    def take(data: bytes) -> None:
        nonlocal taken
        taken += len(data)

    async with hostile(repeat(frame(PART, bytes(1 << 16)))) as box:
        action = Exec(CallId("r/1/1/n"), 1, ("true",), timeout_s=0.2)
        async with asyncio.timeout(20):
            with pytest.raises(SandboxGone):
                await box.perform(action, on_output=take)
    assert taken > 0


async def test_a_frame_that_drips_ends_with_the_calls_own_time() -> None:
    async with hostile([frame(ok(outcome=OUTCOME))[:-1]]) as box:
        async with asyncio.timeout(10):
            with pytest.raises(SandboxGone):
                await ASKS["exec"](box)


@pytest.mark.parametrize(
    "greeting",
    [
        b"\0" * 64,
        frame({**GREETING, "version": 99}),
        frame({**GREETING, "layers": "all"}),
        frame({**GREETING, "layers": [{"name": "x" * 1000, "is_held": "yes"}]}),
        frame({**GREETING, "layers": [{"name": "l", "is_held": True}] * 100}),
        frame({"id": 0, "ready": 1}),
        frame(b'{"id":0,"ready":true,"version":1,"fence":0,"layers":[{"name":"\\ud800","is_held":true}]}'),
    ],
)
async def test_a_greeting_that_is_none_starts_nothing(greeting: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        async with hostile([], greeting=greeting):
            raise AssertionError("it greeted")


async def test_answers_of_two_calls_may_interleave_and_stay_apart() -> None:
    def parts() -> Iterable[bytes]:
        for number in (1, 2, 1, 2):
            yield frame({"id": number, "part": True}, b"ab"[number - 1 : number] * 2)
        for number in (2, 1):
            yield frame({"id": number, "ok": True, "size_bytes": 4, "sha256": ""})

    async with hostile(parts()) as box:
        first, second = await asyncio.gather(box.read(ROOT / "a", limit_bytes=4), box.read(ROOT / "b", limit_bytes=4))
    assert (first.data, second.data) == (b"aaaa", b"bbbb")


async def test_whatever_bytes_come_it_is_one_of_our_errors_or_a_whole_answer(memory: None) -> None:
    """Frames that are almost right, cut, doubled and overwritten by chance, with a seed that a failure tells."""
    chance = random.Random(20261124)
    right = [
        frame(ok(outcome=OUTCOME), b"out"),
        frame(PART, b'[{"path":"a","kind":"file","size_bytes":1}]\n'),
        frame(ok(is_truncated=False)),
        frame(ok(base_commit="0" * 40, watched=[])),
        frame(ok(size_bytes=3, sha256=""), b"abc"),
        frame({"id": 1, "ok": False, "error": "path", "message": "no"}),
    ]
    for number in range(ROUNDS):
        data = bytearray(b"".join(chance.choices(right, k=chance.randint(1, 4))))
        for _ in range(chance.randint(0, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        cut = bytes(data[: chance.randint(1, len(data))])
        ask = chance.choice(sorted(ASKS))
        async with hostile([cut]) as box:
            try:
                async with asyncio.timeout(0.02):
                    await ASKS[ask](box)
            except (SandboxError, TimeoutError):
                continue
            except Exception as error:
                raise AssertionError(f"round {number}, {ask}: {cut!r}") from error


async def test_an_archive_without_end_ends_the_copy(tmp_path: Path) -> None:
    from ringfence_sandbox.contract import Limits, SandboxSpec
    from ringfence_sandbox.forking import fork
    from ringfence_sandbox.local.backend import LocalBackend

    spec = SandboxSpec(SandboxId("copy"), limits=Limits(disk_bytes=1 << 20))
    bundle = Bundle(tmp_path / "absent", "0" * 40)
    async with hostile(repeat(frame(PART, bytes(1 << 16)))) as box:
        async with asyncio.timeout(20):
            with pytest.raises(ProtocolViolation, match="no end"):
                await fork(box, LocalBackend(tmp_path / "state"), spec, bundle, scratch=tmp_path)
    assert list(tmp_path.iterdir()) == []
