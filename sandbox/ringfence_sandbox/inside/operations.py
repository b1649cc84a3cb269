"""The requests beside `exec`: loaded at their first use, since a start must not wait for them."""

from __future__ import annotations

import os

from . import files, wire
from .server import Refused, integer, text
from .worker import Answer, Worker, ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .calls import Order
    from .channel import Channel
    from .server import Server
    from .wire import Header
    from .worker import Emit

FREEZE_WITHIN_S = 0.5
FILES_WITHIN_S = 1800
HASHED_WITHIN_S = 120
INCOMING = "incoming.bundle"


def dispatch(server: Server, channel: Channel, number: int, header: Header, body: bytes) -> None:
    """Answer one request, now or through a worker."""
    try:
        operation = OPERATIONS.get(str(header.get("op")))
        if operation is None:
            raise wire.WireError("unknown operation")
        operation(server, channel, number, header, body)
    except Answer as answer:
        raise Refused(answer.kind, str(answer)) from answer


def _write(server: Server, channel: Channel, number: int, header: Header, body: bytes) -> None:
    path = text(header, "path")
    expected = header.get("expected_sha256")
    if expected is not None and not isinstance(expected, str):
        raise wire.WireError("expected_sha256 must be a text or null")
    _act(server, channel, number, header, lambda: files.write(_place(server, path), body, expected))


def _move(server: Server, channel: Channel, number: int, header: Header, body: bytes) -> None:
    source, target = text(header, "path"), text(header, "target")
    _act(server, channel, number, header, lambda: files.move(_place(server, source), _place(server, target)))


def _place(server: Server, path: str) -> str:
    target = files.resolved(server.settings.workspace, path)
    if files.is_below(target, server.settings.state) or target.endswith("/"):
        raise Answer("path", f"{path}: not a place for files")
    return target


def _act(server: Server, channel: Channel, number: int, header: Header, work: Callable[[], str]) -> None:
    """Do what takes no time, once: `work` returns why it was refused, or ""."""
    call = server.begin(channel, number, header)
    if call is None:
        return
    server.journal.start(call)
    try:
        refusal = work()
    except Answer as answer:
        refusal = str(answer)
    fields: Header = {"ending": "refused" if refusal else "done", "exit_code": None if refusal else 0, "head": 0}
    fields["detail"] = refusal
    server.answer(channel, number, server.journal.finish(call, fields, b""))


def _read(server: Server, channel: Channel, number: int, header: Header, body: bytes) -> None:
    settings = server.settings
    path = files.resolved(settings.workspace, text(header, "path"))
    offset, limit = integer(header, "offset"), integer(header, "limit")
    Worker(
        server,
        channel,
        number,
        lambda emit: files.read(path, settings.state, offset, limit, emit),
        deadline_s=120,
    )


def _list(server: Server, channel: Channel, number: int, header: Header, body: bytes) -> None:
    settings = server.settings
    path = files.resolved(settings.workspace, text(header, "path"))
    depth, limit = integer(header, "depth"), integer(header, "limit")
    Worker(
        server,
        channel,
        number,
        lambda emit: files.listing(path, settings.workspace, settings.state, depth, limit, emit),
        deadline_s=60,
    )


def _search(server: Server, channel: Channel, number: int, header: Header, body: bytes) -> None:
    settings = server.settings
    path = files.resolved(settings.workspace, text(header, "path"))
    pattern, limit = text(header, "pattern"), integer(header, "limit")

    def work(emit: Emit) -> None:
        from . import search

        search.search(pattern, path, settings.workspace, settings.state, limit, emit)

    Worker(server, channel, number, work, deadline_s=10)


def _load_chunk(server: Server, channel: Channel, number: int, header: Header, body: bytes) -> None:
    _put(server, INCOMING, integer(header, "offset"), body)
    channel.send({"id": number, "ok": True})


def _put(server: Server, name: str, offset: int, body: bytes) -> None:
    """One chunk of a file on its way in, in the server's own directory; the first begins it anew."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | (0 if offset else os.O_TRUNC)
    opened = os.open(os.path.join(server.settings.state, name), flags, 0o600)
    try:
        os.pwrite(opened, body, offset)
    finally:
        os.close(opened)


def _load(server: Server, channel: Channel, number: int, header: Header, body: bytes) -> None:
    if len(server.journal.started) > server.journal.inherited:
        raise Refused("workspace", "the workspace is loaded before the first action")
    commit, branch = text(header, "commit"), text(header, "branch")
    settings = server.settings

    def work(emit: Emit) -> None:
        from . import repository

        bundle = os.path.join(settings.state, INCOMING)
        repository.load(settings, bundle, commit, branch)
        os.unlink(bundle)
        emit({"ok": True}, b"")

    Worker(server, channel, number, work, deadline_s=600)


def _while_frozen(server: Server, channel: Channel, number: int, work: Callable[[Emit], None]) -> None:
    """Work on files while nothing else inside can change them, nor touch what the work uses."""
    held = _still(server)
    Worker(server, channel, number, work, deadline_s=300, on_done=lambda: _release(server, held))


def _still(server: Server) -> set[int]:
    held = server.stillness.hold(server.runner.own_pids(), within_s=FREEZE_WITHIN_S, accepts_waiting=True)
    if held is None:
        raise Refused("busy", "the sandbox's processes could not be stopped")
    return held


def _release(server: Server, held: set[int]) -> None:
    if not server.is_final:
        server.stillness.release(held)


def _changed(server: Server, channel: Channel, number: int, header: Header, body: bytes) -> None:
    def work(emit: Emit) -> None:
        from . import deliverable

        deliverable.changed(server.settings, emit)

    _while_frozen(server, channel, number, work)


def _diff(server: Server, channel: Channel, number: int, header: Header, body: bytes) -> None:
    def work(emit: Emit) -> None:
        from . import deliverable

        deliverable.diff(server.settings, emit)

    _while_frozen(server, channel, number, work)


def _pack(server: Server, channel: Channel, number: int, header: Header, body: bytes) -> None:
    """Everything that belongs to the run. With `stays_frozen` what runs inside never runs again."""

    def work(emit: Emit) -> None:
        from . import packing

        packing.pack(server.settings, emit)

    held = _still(server)
    server.is_final = server.is_final or header.get("stays_frozen") is True
    Worker(server, channel, number, work, deadline_s=FILES_WITHIN_S, on_done=lambda: _release(server, held))


def _files_chunk(server: Server, channel: Channel, number: int, header: Header, body: bytes) -> None:
    from . import packing

    _put(server, packing.INCOMING, integer(header, "offset"), body)
    channel.send({"id": number, "ok": True})


def _unpack(server: Server, channel: Channel, number: int, header: Header, body: bytes) -> None:
    def work(emit: Emit) -> None:
        from . import packing

        packing.unpack(server.settings, emit)

    _before_actions(server, channel, number, work)


def _apply(server: Server, channel: Channel, number: int, header: Header, body: bytes) -> None:
    def work(emit: Emit) -> None:
        from . import packing

        packing.apply(server.settings, emit)

    _before_actions(server, channel, number, work)


def _before_actions(server: Server, channel: Channel, number: int, work: Callable[[Emit], None]) -> None:
    if len(server.journal.started) > server.journal.inherited:
        raise Refused("workspace", "files are brought in before the first action")
    Worker(server, channel, number, work, deadline_s=FILES_WITHIN_S)


def exec_sealed(server: Server, channel: Channel, number: int, header: Header, order: Order) -> None:
    """Stop all else, compare the approved hashes, and run alone; on any difference nothing starts."""
    sealed = header.get("sealed")
    if not isinstance(sealed, dict):
        raise wire.WireError("sealed must be an object")
    if server.is_sealed:
        raise Refused("busy", "an approved command is running alone")
    # A keeper is spared from stopping; it must exist before, for a fork to come is not.
    server.runner.prepare()
    held = server.stillness.hold(server.runner.own_pids(), within_s=FREEZE_WITHIN_S)
    server.is_sealed = True
    server.comparing.add(order.call)

    def told() -> None:
        server.is_sealed = False
        if held is not None:
            _release(server, held)

    def compared(refusal: str | None) -> None:
        is_wanted = order.call in server.comparing
        server.comparing.discard(order.call)
        try:
            if is_wanted and refusal == "":
                server.launch(channel, number, order, has_stream=bool(header.get("stream")), on_told=told)
                return
            told()
            fields: Header = {"ending": "refused", "head": 0, "detail": refusal or "what was approved cannot be hashed"}
            if not is_wanted:
                fields.update(ending="signaled", detail="cancelled")
            server.journal.start(order.call)
            server.answer(channel, number, server.journal.finish(order.call, fields, b""))
        except (Refused, OSError) as error:
            told()
            kind = error.kind if isinstance(error, Refused) else "system"
            channel.send({"id": number, "ok": False, "error": kind, "message": str(error)})

    if held is None:
        compared("the sandbox's other processes could not be stopped")
        return
    # Not here: hashing takes as long as the files are large, and everything else waits for this process.
    ask(server, lambda: _differences(server, sealed), HASHED_WITHIN_S, compared)


def _differences(server: Server, sealed: Header) -> str:
    """The first difference from what was approved, "" for none."""
    return next((told for told in (_difference(server, path, str(sealed[path])) for path in sealed) if told), "")


def _difference(server: Server, path: str, digest: str) -> str:
    try:
        target = files.resolved(server.settings.workspace, path)
    except Answer as answer:
        return str(answer)
    found = files.sha256_without_links(target)
    if found is None:
        return f"{path}: not a regular file any more"
    return "" if found == digest else f"{path}: changed since it was approved"


def _suspend(server: Server, channel: Channel, number: int, header: Header, body: bytes) -> None:
    """End everything. The server itself `stays` where its end would count as a crash: containers are restarted late."""
    for call in list(server.running.values()):
        call.end("signaled", "the sandbox was suspended")
    server.runner.kill_everything()

    def stop() -> None:
        server.runner.kill_everything()
        if header.get("stays"):
            channel.send({"id": number, "ok": True})
            return
        server.journal.close()
        channel.send({"id": number, "ok": True})
        server.loop.after(0.05, server.loop.stop)

    server.loop.after(0.02, stop)


def _prove(server: Server, channel: Channel, number: int, header: Header, body: bytes) -> None:
    is_short = header.get("is_short") is True

    def work(emit: Emit) -> None:
        from . import probes

        probes.prove(server.settings, emit, is_short=is_short)

    Worker(server, channel, number, work, deadline_s=30)


def _egress(server: Server, channel: Channel, number: int, header: Header, body: bytes) -> None:
    from . import egress

    if len(server.journal.started) > server.journal.inherited:
        raise Refused("busy", "the listener is handed out before the first action")
    egress.hand_out(server.settings)
    channel.send({"id": number, "ok": True})


def _trust(server: Server, channel: Channel, number: int, header: Header, body: bytes) -> None:
    """Put down what commands are to trust: the control plane's, and no call's, so nothing of it is an outcome."""
    folder, name = server.settings.trust, text(header, "name")
    if not folder or "/" in name or name in (".", ".."):
        raise Refused("path", f"{name}: not a place for what is trusted")
    if refusal := files.write(f"{folder}/{name}", body, None):
        raise Refused("system", refusal)
    channel.send({"id": number, "ok": True})


OPERATIONS = {
    "trust": _trust,
    "write": _write,
    "move": _move,
    "read": _read,
    "list": _list,
    "search": _search,
    "load-chunk": _load_chunk,
    "load": _load,
    "changed": _changed,
    "diff": _diff,
    "pack": _pack,
    "files-chunk": _files_chunk,
    "unpack": _unpack,
    "apply": _apply,
    "prove": _prove,
    "egress": _egress,
    "suspend": _suspend,
}
