"""Running commands: one `Call` from the moment its keeper is asked until nothing reads its output any more.

A call is *told* once, when its main process has ended (or could not start, or was ended). What it left in the
background goes on below its keeper, and its output goes on into the call's file.
"""

from __future__ import annotations

import os
from time import monotonic

from . import processes
from .capture import Capture
from .keeper import REQUEST_LIMIT, Keeper, Request
from .loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .loop import Loop, Timer
    from .settings import Settings
    from .wire import Header

BURIED_WITHIN_S = 1.0
READ_AT_ONCE = 256 << 10
SIGXFSZ = 25
END_OF_INPUT = b"\x04\x04"
"""What ends a line that was begun, and then the input itself, as typed at a terminal."""
TERMINAL_SIZE = (24).to_bytes(2, "little") + (80).to_bytes(2, "little") + bytes(4)


class Paused:
    """Something that stopped producing because the reader was behind."""

    def go_on(self) -> None:
        raise NotImplementedError


class Order:
    """What to run and how to watch it."""

    __slots__ = ("call", "has_stream", "has_terminal", "output_limit", "request", "stdin", "timeout_s")

    def __init__(
        self,
        call: str,
        request: Request,
        *,
        stdin: bytes,
        timeout_s: float,
        output_limit: int,
        has_terminal: bool = False,
    ) -> None:
        self.has_terminal = has_terminal
        self.call = call
        self.request = request
        self.stdin = stdin
        self.timeout_s = timeout_s
        self.output_limit = output_limit


class Call(Paused):
    """One command. `on_output` sees each piece of output, `on_end` the outcome's fields and body, once."""

    def __init__(
        self,
        order: Order,
        runner: Runner,
        on_output: Callable[[bytes], bool],
        on_end: Callable[[Header, bytes], None],
    ) -> None:
        self.order = order
        self.runner = runner
        self.on_output = on_output
        self.on_end = on_end
        self.began = monotonic()
        self.is_told = False
        self.ending = ""
        self.detail = ""
        self.keeper: Keeper | None = None
        self.timer: Timer | None = None
        self._status: int | None = None
        self.capture = Capture(
            runner.output_path(order.call), limit=order.output_limit, file_limit=runner.settings.output_bytes
        )
        self._out = -1
        self._in = -1
        self._unsent = memoryview(order.stdin)

    def start(self) -> None:
        """Spawn it. A failure to do so is told as an outcome."""
        if self.order.has_terminal:
            out_read, out_write, in_read = self._open_terminal()
        elif self.order.stdin:
            out_read, out_write = os.pipe2(os.O_CLOEXEC)
            in_read, self._in = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self._in, False)
        else:
            out_read, out_write = os.pipe2(os.O_CLOEXEC)
            in_read = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        os.set_blocking(out_read, False)
        self._out = out_read
        try:
            self.keeper = self.runner.take_keeper(self.order.request, (in_read, out_write))
        except OSError as error:
            self._end_output()
            self.tell("refused", detail=f"no process could be started: {error.strerror}")
            return
        finally:
            os.close(in_read)
            os.close(out_write)
        self.runner.by_keeper[self.keeper.pid] = self
        loop = self.runner.loop
        loop.watch(self._out, READ, self._read)
        if self._in >= 0:
            loop.watch(self._in, 4, self._write)
        self.timer = loop.after(self.order.timeout_s, self._time_out)

    def _open_terminal(self) -> tuple[int, int, int]:
        """A pseudo-terminal: its master is read and typed at, its other end is the command's."""
        import fcntl
        import termios

        master, other = os.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, TERMINAL_SIZE)
        self.order.request.terminal = os.ttyname(other)
        self._in = os.dup(master)
        os.set_blocking(self._in, False)
        self._unsent = memoryview(bytes(self.order.stdin) + END_OF_INPUT)
        return master, other, os.dup(other)

    def _write(self, _: int) -> None:
        try:
            sent = os.write(self._in, self._unsent[: 64 << 10])
            self._unsent = self._unsent[sent:]
        except BlockingIOError:
            return
        except OSError:
            self._unsent = memoryview(b"")  # the command closed its input: what is left has no reader
        if not self._unsent:
            self._end_input()

    def _end_input(self) -> None:
        if self._in >= 0:
            self.runner.loop.unwatch(self._in)
            os.close(self._in)
            self._in = -1

    def _read(self, _: int) -> None:
        taken = 0
        while taken < READ_AT_ONCE:
            try:
                data = os.read(self._out, 64 << 10)
            except BlockingIOError:
                return
            except OSError:
                data = b""  # a terminal whose last user is gone
            if not data:
                self._end_output()
                return
            taken += len(data)
            self._take(data)
            if self._out < 0:
                return

    def _take(self, data: bytes) -> None:
        self.capture.add(data)
        if self.is_told:
            return
        if self.capture.is_over and not self.ending:
            self.end("limit", "output: more than %d bytes" % self.runner.settings.output_bytes)
        elif not self.on_output(data):
            self.runner.loop.unwatch(self._out)
            self.runner.paused.add(self)

    def go_on(self) -> None:
        """The reader of the stream has caught up."""
        if self._out >= 0:
            self.runner.loop.watch(self._out, READ, self._read)

    def _end_output(self) -> None:
        if self._out >= 0:
            self.runner.loop.unwatch(self._out)
            os.close(self._out)
            self._out = -1
        self.capture.close()

    def _time_out(self) -> None:
        self.end("timeout", f"ended after {self.order.timeout_s:g} s")

    def end(self, ending: str, detail: str) -> None:
        """End the whole tree now; the outcome follows when the keeper has buried it."""
        if self.keeper is None:
            return
        if self.is_told:
            # Told long ago; what it left in the background ends now, and its log says why.
            self.capture.add(f"\n[{ending}: {detail}]\n".encode())
        elif not self.ending:
            self.ending, self.detail = ending, detail
        self.runner.kill_tree(self)

    def ended(self, status: int, *, is_last: bool) -> None:
        """The main process has ended with a wait status."""
        if self.timer is not None:
            self.timer.cancel()
        if self._out >= 0:
            self._read(0)
        self._end_input()
        if not is_last and not self.ending and self.runner.is_crowded():
            # What it left behind has the sandbox's last processes: nothing else could ever start again.
            self.ending, self.detail = "limit", "processes: it left more behind than may run beside it"
        if not is_last and self.ending:
            # An end that was imposed is told once the last of the tree is buried, not just its root.
            self._status = status
            self.runner.kill_tree(self)
            self.timer = self.runner.loop.after(BURIED_WITHIN_S, self.buried)
            return
        if not is_last and not self.ending:
            self.capture.to_file()
            self.detail = "processes go on in the background"
        if self.ending:
            self.tell(self.ending, detail=self.detail, status=status)
        elif os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            if number == SIGXFSZ:
                limit = self.runner.settings.file_size_bytes
                self.tell("limit", detail="file size: more than %d bytes" % limit, status=status)
            else:
                self.tell("signaled", detail="ended by signal %d" % number, status=status)
        else:
            self.tell("done", detail=self.detail, status=status)
        if is_last:
            self._end_output()

    def buried(self) -> None:
        """Nothing of the tree is left."""
        if not self.is_told and self._status is not None:
            self.ended(self._status, is_last=True)

    def failed(self, number: int) -> None:
        """Nothing could be spawned."""
        self._end_input()
        self._end_output()
        reason = os.strerror(number)
        if number == 11:  # EAGAIN: what earlier calls left behind holds every process that there may be
            self.runner.kill_everything()
            reason = "no process was left; what ran in the background has been ended, so try again"
        if number == 2:
            reason = f"no such program or directory: {self.order.request.argv[0]}"
        self.tell("refused", detail=reason)

    def tell(self, ending: str, *, detail: str = "", status: int | None = None) -> None:
        if self.is_told:
            return
        self.is_told = True
        if self.timer is not None:
            self.timer.cancel()
        head, tail = self.capture.head_and_tail()
        fields: Header = {
            "ending": ending,
            "exit_code": os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else None,
            "head": len(head),
            "omitted_bytes": self.capture.omitted,
            "detail": detail,
            "duration_ms": int((monotonic() - self.began) * 1000),
            "output_path": self.capture.path,
        }
        self.on_end(fields, head + tail)


class Runner:
    """Owns the keepers and the calls that run."""

    def __init__(self, settings: Settings, loop: Loop) -> None:
        self.settings = settings
        self.loop = loop
        self.by_keeper: dict[int, Call] = {}
        self.paused: set[Paused] = set()
        self.workers: set[int] = set()
        """Pids of this server's own short-lived children: never killed with an agent's."""
        self._keepers: dict[int, Keeper] = {}
        self._numbered = 0

    def is_crowded(self) -> bool:
        """Three of four processes that the sandbox may have are there."""
        limit = self.settings.processes
        return limit > 0 and sum(name.isdigit() for name in os.listdir("/proc")) * 4 >= limit * 3

    def output_path(self, call: str) -> str:
        self._numbered += 1
        name = "".join(c if c.isalnum() else "-" for c in call)[-80:]
        return "%s/%s-%d.log" % (self.settings.output, name, self._numbered)

    def take_keeper(self, request: Request, fds: tuple[int, int]) -> Keeper:
        packed = request.packed()
        if len(packed) <= REQUEST_LIMIT:
            for keeper in list(self._keepers.values()):
                if not keeper.is_busy:
                    keeper.send(packed, fds)
                    return keeper
            keeper = self._add(Keeper(self.settings))
            keeper.send(packed, fds)
            return keeper
        return self._add(Keeper(self.settings, request, fds))

    def _add(self, keeper: Keeper) -> Keeper:
        self._keepers[keeper.pid] = keeper
        self.loop.watch(keeper.fd, READ, lambda _: self._hear(keeper))
        return keeper

    def prepare(self) -> None:
        """Fork a spare keeper, ahead of need."""
        if all(keeper.is_busy for keeper in self._keepers.values()):
            try:
                self._add(Keeper(self.settings))
            except OSError:
                return  # no room for a spare: the next call will say so if there still is none

    def _hear(self, keeper: Keeper) -> None:
        said = keeper.message()
        if said is None:
            self._lose(keeper)
            return
        kind, first, second = said
        call = self.by_keeper.get(keeper.pid)
        is_free = kind in ("failed", "idle") or (kind == "ended" and bool(second))
        if is_free:
            keeper.is_busy = False
            self.by_keeper.pop(keeper.pid, None)
        if call is not None and kind == "failed":
            call.failed(first)
        elif call is not None and kind == "ended":
            call.ended(first, is_last=bool(second))
        elif call is not None and kind == "idle":
            call.buried()
        if is_free:
            self._drop_surplus(keeper)

    def _drop_surplus(self, keeper: Keeper) -> None:
        if sum(not other.is_busy for other in self._keepers.values()) > 1:
            self.loop.unwatch(keeper.fd)
            del self._keepers[keeper.pid]
            keeper.close()

    def _lose(self, keeper: Keeper) -> None:
        """A keeper died: only something inside can have killed it. What it kept is orphaned, and ended with it."""
        self.loop.unwatch(keeper.fd)
        self._keepers.pop(keeper.pid, None)
        keeper.close()
        processes.kill_below({1}, self.own_pids())
        call = self.by_keeper.pop(keeper.pid, None)
        if call is not None:
            call.detail = call.detail or "something inside killed the command's keeper; its processes were ended"
            call.ended(9, is_last=True)

    def own_pids(self) -> set[int]:
        return set(self._keepers) | self.workers

    def kill_tree(self, call: Call) -> None:
        """End everything below a call's keeper. A keeper that is stopped from inside is ended with it."""
        if call.keeper is None or self.by_keeper.get(call.keeper.pid) is not call:
            return  # the keeper has gone on to another call
        pid = call.keeper.pid
        processes.signal_all({pid}, processes.SIGCONT)
        processes.kill_below({pid}, set())
        self.loop.after(1.0, lambda: None if call.is_told else processes.signal_all({pid}, processes.SIGKILL))

    def kill_everything(self) -> None:
        """End all processes but this server and its workers."""
        processes.kill_below({1}, set(self._keepers) | self.workers)
        for pid in self._keepers:
            processes.kill_below({pid}, set())
