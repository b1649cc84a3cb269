"""What became of every call, kept so that no call runs twice: in memory, and in a file that survives this server.

A *started* record is written before anything is spawned, an *outcome* record before it is told. A crash of the server
loses neither; a crash of the whole machine may (records are not synced, which would cost more than the command), so
after a reboot an unknown call is answered as interrupted rather than as never started.
"""

from __future__ import annotations

import os

from . import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .wire import Header

FILE = "calls.journal"
COMPACT_OVER = 16 << 20
DETAIL_LIMIT = 2000


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read(64).strip()


class Record:
    """A finished call: the outcome's header fields and its body, "head" then "tail"."""

    __slots__ = ("body", "fields")

    def __init__(self, fields: Header, body: bytes) -> None:
        self.fields = fields
        self.body = body


class Journal:
    """Not for concurrent servers: one per state directory. Raises OSError where the file cannot be written."""

    def __init__(self, directory: str) -> None:
        self._path = os.path.join(directory, FILE)
        self.highest_fence = 0
        self.started: set[str] = set()
        self.outcomes: dict[str, Record] = {}
        self.is_doubtful = False
        """The machine went down since the journal was begun: the last records may be missing."""
        self._boot = boot_id()
        self._last_boot = self._boot
        self._is_clean = True
        self._fd = -1
        size = self._replay()
        self.inherited = len(self.started)
        """Calls that earlier servers over these files had started."""
        has_rebooted = self._last_boot != self._boot
        self.is_doubtful = self.is_doubtful or (has_rebooted and not self._is_clean)
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        os.ftruncate(self._fd, size)
        if size == 0 or has_rebooted:
            self._append({"event": "begun", "boot": self._boot, "doubtful": self.is_doubtful})
        if size > COMPACT_OVER:
            self._compact()

    def _replay(self) -> int:
        """Read what an earlier server left. Returns how many bytes of it are whole records."""
        try:
            with open(self._path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return 0
        at = 0
        while len(data) - at >= 8:
            head, body = int.from_bytes(data[at : at + 4], "big"), int.from_bytes(data[at + 4 : at + 8], "big")
            end = at + 8 + head + body
            if end > len(data):
                break
            self._apply(wire.decode_header(data[at + 8 : at + 8 + head]), data[at + 8 + head : end])
            at = end
        return at

    def _apply(self, header: Header, body: bytes) -> None:
        event, call = header.get("event"), str(header.get("call"))
        self._is_clean = event == "clean"
        if event == "begun":
            self._last_boot = str(header.get("boot"))
            self.is_doubtful = bool(header.get("doubtful"))
        elif event == "started":
            self.started.add(call)
        elif event == "outcome":
            fields = header.get("outcome")
            self.outcomes[call] = Record(fields if isinstance(fields, dict) else {}, body)
        elif event == "acknowledged" and call in self.outcomes:
            self.outcomes[call].body = b""
        fence = header.get("fence")
        if isinstance(fence, int):
            self.highest_fence = max(self.highest_fence, fence)

    def _append(self, header: Header, body: bytes = b"") -> None:
        frame = wire.encode(header, body)
        written = os.write(self._fd, frame)
        if written != len(frame):
            os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
            raise OSError("the journal took %d of %d bytes" % (written, len(frame)))

    def _compact(self) -> None:
        fresh = self._path + ".new"
        old, self._fd = self._fd, os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._append({"event": "begun", "boot": self._boot, "doubtful": self.is_doubtful, "fence": self.highest_fence})
        for call in self.started:
            self._append({"event": "started", "call": call})
        for call, record in self.outcomes.items():
            self._append({"event": "outcome", "call": call, "outcome": record.fields}, record.body)
        os.fsync(self._fd)
        os.replace(fresh, self._path)
        os.close(old)

    def see_fence(self, fence: int) -> bool:
        """Remember a fencing token. False where a higher one has been seen."""
        if fence < self.highest_fence:
            return False
        if fence > self.highest_fence:
            self._append({"event": "fence", "fence": fence})
            self.highest_fence = fence
        return True

    def start(self, call: str) -> None:
        """Record that `call` is about to act."""
        self._append({"event": "started", "call": call})
        self.started.add(call)

    def finish(self, call: str, fields: Header, body: bytes) -> Record:
        """Record how `call` ended. The detail, which may repeat a path of any length, is cut."""
        detail = fields.get("detail")
        if isinstance(detail, str) and len(detail) > DETAIL_LIMIT:
            fields["detail"] = detail[:DETAIL_LIMIT]
        self._append({"event": "outcome", "call": call, "outcome": fields}, body)
        record = self.outcomes[call] = Record(fields, body)
        return record

    def acknowledge(self, call: str) -> None:
        """Forget the body; the id stays known."""
        record = self.outcomes.get(call)
        if record is not None and record.body:
            self._append({"event": "acknowledged", "call": call})
            record.body = b""

    def close(self) -> None:
        """A clean stop: everything is on disk, so that a reboot from here on casts no doubt."""
        self._append({"event": "clean"})
        os.fsync(self._fd)
        os.close(self._fd)
