"""A model endpoint over real HTTP on loopback that answers exactly the bytes that a test wrote down."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Reply:
    """One response. `is_cut`: the connection is dropped where the body would end. `stalls`: nothing more ever comes."""

    body: bytes
    status: int = 200
    headers: Sequence[tuple[str, str]] = (("content-type", "text/event-stream"),)
    is_cut: bool = False
    stalls: bool = False


@dataclass
class Endpoint:
    """Replies in order; the last one stands for every later request."""

    replies: Sequence[Reply]
    base_url: str = ""
    requests: list[dict[str, object]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(
                int(line.split(":")[1]) for line in head.lower().splitlines() if line.startswith("content-length:")
            )
            self.requests.append(json.loads(await reader.readexactly(length)))
            self.heads.append(head)
            reply = self.replies[min(len(self.requests), len(self.replies)) - 1]
            lines = [f"HTTP/1.1 {reply.status} X", *(f"{name}: {value}" for name, value in reply.headers)]
            lines += ["transfer-encoding: chunked", "connection: close", "", ""]
            writer.write("\r\n".join(lines).encode())
            if reply.body:
                writer.write(f"{len(reply.body):x}\r\n".encode() + reply.body + b"\r\n")
            await writer.drain()
            if reply.stalls:
                await reader.read()
            if not reply.is_cut:
                writer.write(b"0\r\n\r\n")
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            # The client hung up, which some tests are about.
            return
        finally:
            writer.close()


@asynccontextmanager
async def endpoint(*replies: Reply) -> AsyncIterator[Endpoint]:
    fake = Endpoint(replies)
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0, limit=1 << 24)
    async with server:
        fake.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        yield fake


def sse(*chunks: object, done: bool = True) -> bytes:
    lines = [f"data: {chunk if isinstance(chunk, str) else json.dumps(chunk)}\n\n" for chunk in chunks]
    return ("".join(lines) + ("data: [DONE]\n\n" if done else "")).encode()


def text(content: str, finish: str | None = None) -> dict[str, object]:
    return {"model": "m", "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}]}


def piece(finish: str | None = None, **call: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": finish}]}


def end(finish: str) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 30, "completion_tokens": 7}}
