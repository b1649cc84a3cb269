"""Work that must not hold up PID 1: done in a forked child with a deadline, killed with all that it started."""

from __future__ import annotations

import os

from . import processes, wire
from .calls import Paused
from .loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from .channel import Channel
    from .server import Server
    from .wire import Header

    Emit = Callable[[Header, bytes], None]
    Work = Callable[[Emit], None]


ANSWER_LIMIT = 64 << 10


class Answer(Exception):
    """Raised in a worker to answer with an error of this kind."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Worker(Paused):
    """Runs `work(emit)` in a child. What it emits reaches the channel under the request's id; the last is final."""

    def __init__(
        self,
        server: Server,
        channel: Channel,
        number: int,
        work: Work,
        *,
        deadline_s: float,
        on_done: Callable[[], None] | None = None,
    ) -> None:
        self._server = server
        self._channel = channel
        self._number = number
        self._on_done = on_done
        self._is_final = False
        self._decoder = wire.Decoder()
        self._fd, theirs = os.pipe2(os.O_CLOEXEC)
        self._pid = os.fork()
        if self._pid == 0:
            _work(work, theirs)
        os.close(theirs)
        os.set_blocking(self._fd, False)
        server.runner.workers.add(self._pid)
        server.loop.watch(self._fd, READ, self._read)
        self._timer = server.loop.after(deadline_s, lambda: self._end(f"took longer than {deadline_s:g} s"))

    def go_on(self) -> None:
        if self._fd >= 0:
            self._server.loop.watch(self._fd, READ, self._read)

    def _read(self, _: int) -> None:
        while self._fd >= 0:
            try:
                data = os.read(self._fd, wire.CHUNK)
            except BlockingIOError:
                return
            if not data:
                self._end("the worker ended")
                return
            for header, body in self._decoder.feed(data):
                self._is_final = self._is_final or "ok" in header
                header["id"] = self._number
                self._channel.send(header, body)
            if self._channel.is_behind and self._fd >= 0:
                self._server.loop.unwatch(self._fd)
                self._server.runner.paused.add(self)
                return

    def _end(self, reason: str) -> None:
        if self._fd < 0:
            return
        self._timer.cancel()
        self._server.loop.unwatch(self._fd)
        os.close(self._fd)
        self._fd = -1
        if not self._is_final:
            processes.kill_below({self._pid}, set())
            processes.signal_all({self._pid}, processes.SIGKILL)
            error: Header = {"id": self._number, "ok": False, "error": "worker", "message": reason}
            self._channel.send(error)
        if self._on_done is not None:
            self._on_done()


def ask(
    server: Server, work: Callable[[], str], deadline_s: float, done: Callable[[str | None], None]
) -> Callable[[], None]:
    """`done(work())`, worked out in a child; its text must fit into a pipe. What is returned gives up at once.

    `done(None)` where no whole answer came in time: something inside may stop the child, or end it.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, (work() + "\n").encode("utf-8", "replace"))
        except Exception as error:  # noqa: BLE001 - a forked child must never unwind into its parent's loop
            os.write(2, (f"ringfence worker: {error!r}\n").encode())
        finally:
            os._exit(0)
    os.close(writing)
    server.runner.workers.add(pid)

    def end(said: bytes) -> None:
        timer.cancel()
        server.loop.unwatch(reading)
        os.close(reading)
        if pid in server.runner.workers:  # not buried, so the number is still its own
            processes.signal_all({pid}, processes.SIGKILL)
        done(said[:-1].decode() if said.endswith(b"\n") else None)

    timer = server.loop.after(deadline_s, lambda: end(b""))
    server.loop.watch(reading, READ, lambda _: end(os.read(reading, ANSWER_LIMIT)))
    return lambda: end(b"")


def _work(work: Work, fd: int) -> NoReturn:
    import _signal  # type: ignore[import-not-found,unused-ignore] # the C module under `signal`, absent from typeshed

    def emit(header: Header, body: bytes) -> None:
        frame = memoryview(wire.encode(header, body))
        while frame:
            frame = frame[os.write(fd, frame) :]

    code = 1
    try:
        _signal.set_wakeup_fd(-1)
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        os.close(0)
        os.open("/dev/null", os.O_RDONLY)
        try:
            work(emit)
        except Answer as answer:
            emit({"ok": False, "error": answer.kind, "message": str(answer)}, b"")
        except OSError as error:
            emit({"ok": False, "error": "path", "message": f"{error.filename}: {error.strerror}"}, b"")
        code = 0
    except BaseException as error:  # noqa: BLE001 - a forked child must never unwind into its parent's loop
        os.write(2, (f"ringfence worker: {error!r}\n").encode())
    os._exit(code)
