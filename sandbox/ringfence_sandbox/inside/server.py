"""The in-sandbox server: PID 1 of a local sandbox, the container's entry point in a cluster.

It does what the contract asks, by the frames of `wire`, over its standard input (a Unix socket whose other end is the
control plane; when that closes, everything here ends) or over mutual TLS (`--listen`). It is itself untrusted: it runs
beside what the agent started, under the same uid, and holds no secret of the control plane. It never runs a regular
expression, git or a long hash itself: a worker does that can be killed.

    python3 -I -S -c 'import sys; sys.path.insert(0, FILE); from inside.server import main; main()' --config JSON
"""

from __future__ import annotations

import os
import sys

from . import kernel, wire
from .calls import Call, Order, Runner
from .channel import Channel, ChannelClosed
from .journal import Journal, Record
from .keeper import Request
from .layers import found as found_layers
from .loop import READ, Loop
from .processes import Stillness
from .settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
    from typing import NoReturn

    from .watch import Watch
    from .wire import Header
else:
    import _signal

OUTPUT_CEILING = 1 << 20
"""The most bytes of output that one outcome carries."""


class Refused(Exception):
    """An answer that says no: `kind` is one of the wire's error kinds."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Server:
    """Dispatches requests of every connected channel. State outlives a channel; the journal outlives the process."""

    def __init__(self, settings: Settings, loop: Loop) -> None:
        self.settings = settings
        self.loop = loop
        self.journal = Journal(settings.state)
        self.runner = Runner(settings, loop)
        self.running: dict[str, Call] = {}
        self.waiting: dict[str, list[tuple[Channel, int]]] = {}
        self.streams: dict[str, list[tuple[Channel, int]]] = {}
        self.layers: list[Header] = []
        self.children: dict[int, Callable[[int], None]] = {}
        self.is_sealed = False
        self.stillness = Stillness()
        self.comparing: set[str] = set()
        """Calls whose approved files are being hashed. One that is cancelled meanwhile is taken out."""
        self.is_final = False
        """Everything inside was stopped for good: nothing starts and nothing goes on."""
        self.watch: Watch | None = None

    # -- requests ------------------------------------------------------------------------------------------------

    def handle(self, channel: Channel, header: Header, body: bytes) -> None:
        """One complete request. Every failure becomes an answer; only a broken frame ends the channel."""
        number = header.get("id")
        if not isinstance(number, int) or number < 1:
            raise wire.WireError("a request needs an id")
        try:
            self._dispatch(channel, number, header, body)
        except Refused as refusal:
            channel.send({"id": number, "ok": False, "error": refusal.kind, "message": str(refusal)})
        except wire.WireError as error:
            channel.send({"id": number, "ok": False, "error": "protocol", "message": str(error)})
        except OSError as error:
            channel.send({"id": number, "ok": False, "error": "system", "message": str(error)})

    def _dispatch(self, channel: Channel, number: int, header: Header, body: bytes) -> None:
        op = header.get("op")
        if op == "exec":
            self._exec(channel, number, header, body)
        elif op == "recall":
            self._recall(channel, number, header)
        elif op == "acknowledge":
            self.journal.acknowledge(text(header, "call"))
            channel.send({"id": number, "ok": True})
        elif op == "cancel":
            call = self.running.get(text(header, "call"))
            if call is not None:
                call.end("signaled", "cancelled")
            self.comparing.discard(text(header, "call"))
            channel.send({"id": number, "ok": True})
        elif op == "ping":
            channel.send({"id": number, "ok": True})
        else:
            from . import operations

            operations.dispatch(self, channel, number, header, body)

    def begin(self, channel: Channel, number: int, header: Header) -> str | None:
        """Fence and exactly-once, before an action. None where the answer was given (or will be) from what is known."""
        call = text(header, "call")
        if not self.journal.see_fence(integer(header, "fence")):
            raise Refused("stale-fence", "fence %d has been seen" % self.journal.highest_fence)
        if call in self.journal.outcomes:
            self.answer(channel, number, self.journal.outcomes[call])
        elif call in self.running:
            self.waiting[call].append((channel, number))
            if header.get("stream"):
                self.streams[call].append((channel, number))
        elif call in self.journal.started:
            self.answer(channel, number, interrupted())
        else:
            return call
        return None

    def _exec(self, channel: Channel, number: int, header: Header, body: bytes) -> None:
        order = self._order(header, body)
        call = self.begin(channel, number, header)
        if call is None:
            return
        sealed = header.get("sealed")
        if sealed:
            from . import operations

            operations.exec_sealed(self, channel, number, header, order)
            return
        self.launch(channel, number, order, has_stream=bool(header.get("stream")))

    def launch(
        self,
        channel: Channel,
        number: int,
        order: Order,
        *,
        has_stream: bool,
        on_told: Callable[[], None] | None = None,
    ) -> None:
        """Record that the call starts, then start it. `on_told` follows its end."""
        call = order.call
        if self.is_final:
            raise Refused("busy", "the sandbox was stopped for good")
        if self.is_sealed and on_told is None:
            raise Refused("busy", "an approved command is running alone")
        self.journal.start(call)
        self.waiting[call] = [(channel, number)]
        self.streams[call] = [(channel, number)] if has_stream else []

        def end(fields: Header, output: bytes) -> None:
            if on_told is not None:
                on_told()
            self._finish(call, fields, output)

        running = self.running[call] = Call(order, self.runner, lambda data: self._stream(call, data), end)
        running.start()
        # Not now: a command that ends within milliseconds need not wait for the watch to be loaded.
        self.loop.after(0.05, self._keep_watch)

    def _keep_watch(self) -> None:
        if self.watch is None:
            from .watch import Watch

            self.watch = Watch(self)
        self.watch.start()

    def _order(self, header: Header, body: bytes) -> Order:
        argv = header.get("argv")
        environment = header.get("environment", {})
        timeout = header.get("timeout_s")
        if not isinstance(argv, list) or not argv or not all(isinstance(one, str) and is_sound(one) for one in argv):
            raise wire.WireError("argv must be a list of texts")
        if not isinstance(environment, dict) or isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
            raise wire.WireError("environment or timeout_s is not what it should be")
        merged = dict(self.settings.environment)
        for key, value in environment.items():
            if not key or "=" in key or not is_sound(key) or not isinstance(value, str) or not is_sound(value):
                raise wire.WireError("environment holds an impossible variable")
            merged[key] = value
        request = Request([str(one) for one in argv], merged, text(header, "cwd"))
        limit = min(max(integer(header, "output_limit"), 0), OUTPUT_CEILING)
        return Order(
            text(header, "call"),
            request,
            stdin=body,
            timeout_s=float(timeout),
            output_limit=limit,
            has_terminal=header.get("has_terminal") is True,
        )

    def _stream(self, call: str, data: bytes) -> bool:
        """Pass output on. False where the reader is behind: the caller pauses until `caught_up`."""
        is_behind = False
        for channel, number in self.streams.get(call, ()):
            channel.send({"id": number, "part": True}, data)
            is_behind = is_behind or channel.is_behind
        return not is_behind

    def caught_up(self) -> None:
        """A channel's backlog is gone."""
        paused, self.runner.paused = self.runner.paused, set()
        for call in paused:
            call.go_on()

    def _finish(self, call: str, fields: Header, output: bytes) -> None:
        self.running.pop(call, None)
        self.streams.pop(call, None)
        record = self.journal.finish(call, fields, output)
        for channel, number in self.waiting.pop(call, []):
            self.answer(channel, number, record)
        self.loop.after(0.0, self.runner.prepare)

    def answer(self, channel: Channel, number: int, record: Record) -> None:
        channel.send({"id": number, "ok": True, "outcome": record.fields}, record.body)

    def _recall(self, channel: Channel, number: int, header: Header) -> None:
        call = text(header, "call")
        record = self.journal.outcomes.get(call)
        if record is not None:
            self.answer(channel, number, record)
        elif call in self.running:
            channel.send({"id": number, "ok": True, "recall": "running"})
        elif call in self.journal.started or self.journal.is_doubtful:
            self.answer(channel, number, interrupted())
        else:
            channel.send({"id": number, "ok": True, "recall": "never-started"})

    def drop(self, channel: Channel) -> None:
        """A channel is gone; its calls go on, and are told to whoever asks again."""
        for listeners in list(self.waiting.values()) + list(self.streams.values()):
            listeners[:] = [one for one in listeners if one[0] is not channel]
        self.caught_up()

    # -- children ------------------------------------------------------------------------------------------------

    def reap(self) -> None:
        """Bury every dead child, orphans included."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.runner.workers.discard(pid)
            act = self.children.pop(pid, None)
            if act is not None:
                act(status)


def interrupted() -> Record:
    fields: Header = {"ending": "interrupted", "head": 0, "detail": "the sandbox's server ended while it ran"}
    return Record(fields, b"")


def text(header: Header, key: str) -> str:
    value = header.get(key)
    if not isinstance(value, str) or not value or not is_sound(value):
        raise wire.WireError(f"{key} must be a text")
    return value


def is_sound(text: str) -> bool:
    """Whether a text can be a name or an argument: JSON can carry halves of characters, which no system call takes."""
    if "\0" in text:
        return False
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def integer(header: Header, key: str) -> int:
    value = header.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise wire.WireError(f"{key} must be an integer")
    return value


def greeting(server: Server) -> Header:
    layers: list[wire.Json] = list(server.layers)
    return {"id": 0, "ready": True, "version": wire.VERSION, "layers": layers, "fence": server.journal.highest_fence}


def prepare(settings: Settings) -> list[Header]:
    """Harden this process, make what commands need. Returns the layers as found; what is missing is said."""
    layers: list[Header] = []
    _close_strangers({0, 1, 2, settings.egress_fd})
    if settings.egress_fd >= 0:
        os.set_inheritable(settings.egress_fd, False)
    _raise_oom_score()
    if settings.is_hardened:
        kernel.must_prctl(kernel.PR_SET_DUMPABLE, 0)
    kernel.must_prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    os.umask(0o022)
    os.makedirs(settings.state, mode=0o700, exist_ok=True)
    os.makedirs(settings.output, mode=0o755, exist_ok=True)
    layers += found_layers(settings)
    if settings.is_confined and (settings.readable or settings.writable):
        try:
            readable = settings.readable + _rest_of_root(settings.hidden)
            settings.command_ruleset = kernel.landlock_ruleset(["/"], readable, settings.writable)
            layers.append({"name": "landlock", "is_held": True, "detail": "version %d" % kernel.landlock_abi()})
        except OSError as error:
            layers.append({"name": "landlock", "is_held": False, "detail": str(error)})
    elif settings.fence == "linux":
        layers.append({"name": "landlock", "is_held": False, "detail": "no rules were given"})
    return layers


def _rest_of_root(hidden: list[str]) -> list[str]:
    """Everything at the root but what is hidden; nothing where nothing is."""
    if not hidden:
        return []
    return ["/" + name for name in os.listdir("/") if "/" + name not in hidden]


def _close_strangers(kept: set[int]) -> None:
    """Close what the launcher left open: nothing of the host stays in reach."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:
                continue  # the descriptor of the listing itself


def _raise_oom_score() -> None:
    """When the machine runs out of memory, a sandbox goes before the control plane."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("500")
    except OSError:
        return  # a container that forbids it has a memory limit of its own


def main() -> NoReturn:
    """Serve until the control plane's end closes (or for ever with `--listen`)."""
    options = _options(sys.argv[1:])
    settings = Settings(wire.decode_header(options.get("config", "{}").encode()))
    loop = Loop()
    layers = prepare(settings)
    server = Server(settings, loop)
    server.layers = layers
    wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    _signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    _signal.signal(_signal.SIGCHLD, lambda *_: None)

    def woken(_: int) -> None:
        try:
            os.read(wake_read, 4096)
        except BlockingIOError:
            return
        server.reap()

    loop.watch(wake_read, READ, woken)
    if "listen" in options:
        from . import listener

        listener.listen(server, options)
    else:
        serve_descriptor(server, 0)
    server.runner.prepare()
    loop.run()
    os._exit(0)


def serve_descriptor(server: Server, fd: int) -> None:
    """Serve one channel over a stream socket; its end is the sandbox's end."""
    os.set_blocking(fd, False)
    os.set_inheritable(fd, False)

    def end(channel: Channel) -> None:
        # PID 1's exit is the kernel's order to kill everything in the namespace.
        os._exit(0)

    channel = Channel.of_descriptor(fd, server.loop, server.handle, end, server.caught_up)
    try:
        channel.send(greeting(server))
    except ChannelClosed:
        os._exit(0)


def _options(arguments: list[str]) -> dict[str, str]:
    names = {"--config", "--listen", "--cert", "--key", "--client-ca"}
    if len(arguments) % 2 or not all(name in names for name in arguments[::2]):
        raise SystemExit("usage: server --config JSON [--listen HOST:PORT --cert FILE --key FILE --client-ca FILE]")
    return {name[2:]: value for name, value in zip(arguments[::2], arguments[1::2])}
