"""Starting the server of a local sandbox: bubblewrap as the right uid, a socket as its standard input."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ringfence_sandbox.artifact import BOOT
from ringfence_sandbox.connection import Greeting, ServerConnection
from ringfence_sandbox.egress import RunAuthority, Upstream
from ringfence_sandbox.egress.resolver import Resolver
from ringfence_sandbox.errors import IsolationUnavailable, SandboxError, SandboxGone
from ringfence_sandbox.inside import wire
from ringfence_sandbox.local import bwrap
from ringfence_sandbox.local.remedy import in_short, remedy

START_WITHIN_S = 20.0
COMPLAINT_LIMIT = 4000


@dataclass(frozen=True, slots=True)
class Launch:
    """One start. `uid` None: as this user. `namespace_fd`: the mount namespace to enter first (root only)."""

    bwrap: Path
    arguments: Sequence[str]
    python: str
    config: dict[str, wire.Json]
    seccomp: bytes | None
    uid: int | None
    namespace_fd: int | None
    outside: Outside
    authority: RunAuthority | None


@dataclass(frozen=True, slots=True)
class Outside:
    """How this machine's proxies reach the outside: prepared once, as reading roots takes longer than a start."""

    resolver: Resolver
    upstream: Upstream | None
    tls: ssl.SSLContext


@dataclass(slots=True)
class Launched:
    """A server that has greeted. `egress` is the socket over which it hands out its listener, where it has one;
    `authority` the run's own, where the proxy opens TLS, made for this start."""

    connection: ServerConnection
    greeting: Greeting
    process: subprocess.Popen[bytes]
    egress: socket.socket | None
    outside: Outside
    authority: RunAuthority | None


def _memory_file(name: str, data: bytes) -> int:
    fd = os.memfd_create(name)
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


async def launch(order: Launch, *, has_egress: bool) -> Launched:
    """Start bubblewrap and wait for the server's greeting. Raises IsolationUnavailable with what bubblewrap said."""
    ours, theirs = socket.socketpair()
    complaints = _memory_file("complaints", b"")
    passed: list[int] = []
    egress: socket.socket | None = None
    config = dict(order.config)
    words = list(order.arguments)
    try:
        if order.seccomp is not None:
            passed.append(_memory_file("seccomp", order.seccomp))
            words = ["--seccomp", str(passed[-1]), *words]
        if has_egress:
            egress, inner = socket.socketpair()
            passed.append(inner.detach())
            config["egress_fd"] = passed[-1]
        passed.append(_memory_file("arguments", b"".join(os.fsencode(word) + b"\0" for word in words)))
        command = [str(order.bwrap), "--args", str(passed[-1]), "--", order.python, "-I", "-S", "-B", "-c", BOOT]
        command += [bwrap.ARTIFACT, "--config", json.dumps(config)]
        if order.namespace_fd is not None:
            rank = [] if order.uid is None else [f"--setuid={order.uid}", f"--setgid={order.uid}"]
            command = ["nsenter", f"--mount=/proc/self/fd/{order.namespace_fd}", *rank, "--", *command]
        process = subprocess.Popen(  # noqa: ASYNC220 - a fork of 2 ms; a thread would tie its death signal to itself
            command,
            stdin=theirs.fileno(),
            stdout=complaints,
            stderr=complaints,
            env={"PATH": os.environ.get("PATH", os.defpath)},
            pass_fds=(*passed, *((order.namespace_fd,) if order.namespace_fd is not None else ())),
        )
    finally:
        theirs.close()
        for fd in passed:
            os.close(fd)
    try:
        ours.setblocking(False)
        connection = await ServerConnection.over(ours)
        greeting = await connection.ready(timeout_s=START_WITHIN_S)
    except SandboxError as error:
        await asyncio.to_thread(process.wait, 10)
        raise _unavailable(complaints, error) from error
    finally:
        os.close(complaints)
    return Launched(connection, greeting, process, egress, order.outside, order.authority)


def _unavailable(complaints: int, error: SandboxError) -> SandboxError:
    said = os.pread(complaints, COMPLAINT_LIMIT, 0).decode("utf-8", "replace").strip()
    if said.startswith("bwrap:") or "bwrap" in said.split("\n")[0]:
        return IsolationUnavailable(f"bubblewrap could not build the fence: {in_short(said)}", fix=remedy(said))
    return SandboxGone(f"the in-sandbox server did not start: {said or error}")
