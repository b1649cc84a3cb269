"""What the server is told at its start, on its command line: nothing in it is secret."""

from __future__ import annotations

from . import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .wire import Header, Json


class Settings:
    """The `--config` JSON object. All keys are optional; sizes are bytes, 0 means no limit.

    `workspace`, `state` (the server's own directory: journal, base repository), `output` (whole outputs, for commands
    to read), `trust` (where the control plane puts what commands trust; absent: nowhere),
    `environment` (of every command), `readable` and `writable` (what Landlock leaves open; neither: no
    Landlock), `hidden` (with it everything at the root but these is readable too: an image that nobody here knows),
    `git` (its path; absent: the one on PATH) and `git_environment` (of git alone), `limits` (`memory_bytes`,
    `disk_bytes`, `processes`, `open_files`, `file_size_bytes`, `output_bytes`, `tmp_bytes`, `cpus`,
    `disk_reserve_bytes`: what the disk keeps for the machine), `disk_paths` (directories that `disk_bytes` bounds
    together), `machine_disk` (where those lie on a disk of their own: a path on the machine's), `egress_fd` (a Unix
    socket to hand the listener out by), `is_limited_by_rlimit` (False where a container's runtime holds the limits),
    `fence` (`linux`, `gvisor` or `container`: which layers there must be, and which probes fit), `host_namespaces`
    (what /proc/self/ns says outside, to compare with), `is_confined`, `is_hardened` (False only in tests, to see a
    probe fail).
    """

    def __init__(self, config: Header) -> None:
        self.workspace = _text(config, "workspace", "/workspace")
        self.state = _text(config, "state", "/run/ringfence/state")
        self.output = _text(config, "output", self.state + "/output")
        self.trust = _text(config, "trust", "/") if "trust" in config else ""
        self.environment = {str(k): str(v) for k, v in _object(config, "environment").items()}
        self.readable = _texts(config, "readable")
        self.hidden = _texts(config, "hidden")
        self.writable = _texts(config, "writable")
        self.disk_paths = _texts(config, "disk_paths")
        self.machine_disk = _text(config, "machine_disk", "/") if "machine_disk" in config else ""
        self.git = _text(config, "git", "") if "git" in config else "git"
        self.git_environment = {str(k): str(v) for k, v in _object(config, "git_environment").items()}
        self.egress_fd = _number(config, "egress_fd", -1)
        self.is_limited_by_rlimit = config.get("is_limited_by_rlimit") is not False
        limits = _object(config, "limits")
        self.memory_bytes = _number(limits, "memory_bytes", 0)
        self.disk_bytes = _number(limits, "disk_bytes", 0)
        self.processes = _number(limits, "processes", 0)
        self.open_files = _number(limits, "open_files", 0)
        self.file_size_bytes = _number(limits, "file_size_bytes", 0)
        self.output_bytes = _number(limits, "output_bytes", 64 << 20)
        self.cpus = _number(limits, "cpus", 0)
        self.disk_reserve_bytes = _number(limits, "disk_reserve_bytes", 0)
        self.tmp_bytes = _number(limits, "tmp_bytes", 0)
        self.fence = str(config.get("fence", "container"))
        self.host_namespaces = {str(k): str(v) for k, v in _object(config, "host_namespaces").items()}
        self.is_confined = config.get("is_confined") is not False
        self.is_hardened = config.get("is_hardened") is not False
        self.command_ruleset = -1
        """The Landlock ruleset's descriptor, once it is made."""

    def rlimits(self) -> list[tuple[str, int]]:
        """What each command may use at most, as the names and values of setrlimit(2)."""
        wanted = [("RLIMIT_CORE", 0)]
        if not self.is_limited_by_rlimit:
            return wanted
        for name, value in (
            ("RLIMIT_DATA", self.memory_bytes),
            ("RLIMIT_NPROC", self.processes),
            ("RLIMIT_NOFILE", self.open_files),
            ("RLIMIT_FSIZE", self.file_size_bytes),
            ("RLIMIT_MEMLOCK", 64 << 20),
            ("RLIMIT_MSGQUEUE", 1 << 20),
        ):
            if value:
                wanted.append((name, value))
        return wanted


def _text(config: Header, key: str, default: str) -> str:
    value = config.get(key, default)
    if not isinstance(value, str) or not value.startswith("/"):
        raise wire.WireError(f"{key} must be an absolute path")
    return value


def _texts(config: Header, key: str) -> list[str]:
    value = config.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise wire.WireError(f"{key} must be a list of paths")
    return [str(one) for one in value]


def _object(config: Header, key: str) -> dict[str, Json]:
    value = config.get(key, {})
    if not isinstance(value, dict):
        raise wire.WireError(f"{key} must be an object")
    return value


def _number(config: Header, key: str, default: int) -> int:
    value = config.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise wire.WireError(f"{key} must be an integer")
    return value
