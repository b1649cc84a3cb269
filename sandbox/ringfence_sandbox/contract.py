"""The Sandbox contract: what every backend promises, whatever the fence is made of.

On the path of a tool call this is where an allowed call acts. Only the gate may call `Sandbox.perform`. A sandbox is
untrusted from the moment an agent's command has run in it: every answer is bounded and validated by the backend, and
recorded as the sandbox's word.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Literal, NewType, Protocol, TypeAlias

SandboxId = NewType("SandboxId", str)
"""Lower-case letters, digits and hyphens, at most 40, starting with a letter: fits a Kubernetes name."""

CallId = NewType("CallId", str)
"""`RUN/TURN/INDEX/NONCE`. The nonce is random, so that nothing inside can plant an outcome for a call to come."""

WORKSPACE = PurePosixPath("/workspace")
"""Where the repository lies inside every sandbox."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one sandbox may use. `None` for cpus means no limit beyond the machine's."""

    memory_bytes: int = 4 << 30
    disk_bytes: int = 10 << 30
    processes: int = 512
    open_files: int = 4096
    file_size_bytes: int = 2 << 30
    tmp_bytes: int = 1 << 30
    output_bytes: int = 64 << 20
    cpus: int | None = None


@dataclass(frozen=True, slots=True)
class Mount:
    """A tree of the host that is visible inside, always read-only. Local backend only."""

    source: Path
    target: PurePosixPath


@dataclass(frozen=True, slots=True)
class ClusterRule:
    """What a run's own identity may do in its own namespace, in the words of a Kubernetes Role. Kubernetes only."""

    groups: tuple[str, ...]
    resources: tuple[str, ...]
    verbs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """All that decides how a sandbox is built. `labels` (run, task, team, profile, person) are for operators' eyes."""

    id: SandboxId
    labels: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    image: str = ""
    runtime_class: str = ""
    has_egress: bool = False
    ends_tls: bool = False
    """The proxy reads what goes to some hosts: a certificate authority of the run is made, and trusted inside."""
    fence: int = 0
    """The fencing token of who starts it: a backend whose servers end with their worker starts none for a lower one."""
    is_reduced_allowed: bool = False
    """The profile names the reduced level explicitly: a missing layer is reported, not refused."""
    cluster_rules: tuple[ClusterRule, ...] = ()


@dataclass(frozen=True, slots=True)
class Bundle:
    """A repository on its way in: a git bundle file on the control plane's side and the commit to check out."""

    path: Path
    commit: str
    branch: str = "main"


@dataclass(frozen=True, slots=True)
class Exec:
    """Run a command. Argument list only; a shell command is `("bash", "-c", text)` or what the image has.

    `sealed` maps workspace paths to the SHA-256 (hex) that was approved: the other processes of the sandbox are
    stopped, the files hashed, and on any difference nothing starts (outcome `refused`); they stay stopped until the
    command has ended. `timeout_s` ends the command's whole tree. Output (stdout and stderr together, as it came) is
    kept whole up to the sandbox's `output_bytes`, and returned as head and tail of `output_limit_bytes` in all.
    `has_terminal`: standard input and output are a pseudo-terminal of 24 by 80 that controls the command; `stdin` is
    typed there, and then its end.
    """

    call_id: CallId
    fence: int
    argv: tuple[str, ...]
    stdin: bytes = b""
    cwd: PurePosixPath = WORKSPACE
    environment: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 120.0
    output_limit_bytes: int = 64 << 10
    sealed: Mapping[str, str] = field(default_factory=dict)
    has_terminal: bool = False


@dataclass(frozen=True, slots=True)
class Move:
    """Give a file or folder another name, parents made, never through a symbolic link nor over what stands there.

    What cannot be moved so has the outcome `refused` and nothing changes. Both names lie in one file system.
    """

    call_id: CallId
    fence: int
    source: PurePosixPath
    target: PurePosixPath


@dataclass(frozen=True, slots=True)
class Write:
    """Create or replace a regular file, parents included, never through a symbolic link.

    `expected_sha256` is the content (hex) that must stand there now, "" for *must not exist*, None for *whatever*;
    otherwise the outcome is `refused` and nothing changes.
    """

    call_id: CallId
    fence: int
    path: PurePosixPath
    content: bytes
    expected_sha256: str | None = None


Action: TypeAlias = Exec | Write | Move


class Ending(StrEnum):
    """How an action ended."""

    DONE = "done"
    """Exited by itself (`exit_code`), or the file was written."""
    SIGNALED = "signaled"
    TIMEOUT = "timeout"
    LIMIT = "limit"
    """Ended because a limit was reached; `detail` names it."""
    REFUSED = "refused"
    """Nothing was started; `detail` says why."""
    INTERRUPTED = "interrupted"
    """Started, but the sandbox's server ended before it did: what it did is unknown."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The sandbox's word on one action. `head + tail` is at most `output_limit_bytes`; `omitted_bytes` lie between."""

    call_id: CallId
    ending: Ending
    exit_code: int | None = None
    head: bytes = b""
    tail: bytes = b""
    omitted_bytes: int = 0
    detail: str = ""
    duration_ms: int = 0
    output_path: str = ""
    """Where the whole output lies inside the sandbox, when something was omitted."""


class Recall(StrEnum):
    """What a sandbox knows of a call that has no outcome (yet)."""

    NEVER_STARTED = "never-started"
    RUNNING = "running"


OutputSink: TypeAlias = Callable[[bytes], None]
"""Receives output as it comes, in order, on the event loop. Must not block or raise."""


@dataclass(frozen=True, slots=True)
class FileContent:
    """A slice of a regular file: at most the asked number of bytes from `offset`; size and SHA-256 of the whole."""

    data: bytes
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Dirent:
    path: str
    kind: Literal["file", "directory", "symlink", "other"]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Match:
    path: str
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Listing:
    """At most the asked number of entries; `is_truncated` says that there are more."""

    entries: Sequence[Dirent]
    is_truncated: bool


@dataclass(frozen=True, slots=True)
class Matches:
    matches: Sequence[Match]
    is_truncated: bool


@dataclass(frozen=True, slots=True)
class ChangedFile:
    """A workspace path that differs from the base commit. `sha256` is "" where it was deleted or is not a file."""

    path: str
    status: Literal["added", "modified", "deleted"]
    sha256: str


@dataclass(frozen=True, slots=True)
class Patch:
    """`git diff --binary --full-index` of the workspace against `base_commit`, untracked files included.

    `watched`: files of the workspace's `.git` (settings, hooks) that changed since the load, by the sandbox's word. No
    patch carries them; a person should know. `left_out`: what changed in the workspace and no patch carries (names that
    git keeps for itself, paths longer than any call takes, more than 128 MiB, a submodule's content). A hundred of each
    at most, cut to 300 characters; the last says how many more there are.
    """

    data: bytes
    base_commit: str
    watched: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of the fence, as checked when the sandbox started."""

    name: str
    is_held: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """One attempt made from inside. It is held when the attempt failed as it should."""

    name: str
    is_held: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Proof:
    probes: Sequence[Probe]

    @property
    def is_held(self) -> bool:
        return bool(self.probes) and all(probe.is_held for probe in self.probes)


class Sandbox(ABC):
    """One live sandbox. Not safe to use after `release`, `destroy` or the backend's `close`.

    Exactly once: an action is known by its call id. `perform` with an id whose outcome is stored returns that outcome
    and runs nothing; with an id that is still running it waits for it; with one that was interrupted it returns
    `Ending.INTERRUPTED` and runs nothing. An outcome is kept until `acknowledge`. A fence lower than the highest seen
    raises `StaleFence` and runs nothing. Every method raises `SandboxGone` when the sandbox ended, and
    `ProtocolViolation` when its server answers outside the protocol.
    """

    @property
    @abstractmethod
    def id(self) -> SandboxId: ...

    @property
    @abstractmethod
    def layers(self) -> Sequence[Layer]:
        """The fence as it was found at start, one by one. Goes into the log."""

    @abstractmethod
    async def perform(self, action: Action, *, on_output: OutputSink | None = None) -> Outcome:
        """Act, and wait for the end. Cancelling the awaiting task ends the action's whole tree."""

    @abstractmethod
    async def recall(self, call_id: CallId) -> Outcome | Recall:
        """What became of a call: its stored outcome, or that it runs, or that it never started."""

    @abstractmethod
    async def acknowledge(self, call_id: CallId) -> None:
        """The outcome is durable elsewhere; the sandbox may forget the body but still never runs the id again."""

    @abstractmethod
    async def load(self, bundle: Bundle) -> None:
        """Make the workspace from a bundle. Once, before the first action. Raises `WorkspaceRefused`."""

    @abstractmethod
    async def read(self, path: PurePosixPath, *, offset: int = 0, limit_bytes: int = 1 << 20) -> FileContent:
        """Read a regular file. Raises `PathRefused`."""

    @abstractmethod
    async def list(self, path: PurePosixPath, *, depth: int = 1, limit: int = 1000) -> Listing:
        """Entries below a directory in sorted order, `.git` left out. Raises `PathRefused`."""

    @abstractmethod
    async def search(self, pattern: str, path: PurePosixPath, *, limit: int = 200) -> Matches:
        """Lines that match a regular expression, `.git` and binary files left out. Raises `PathRefused`."""

    @abstractmethod
    async def changed(self) -> Sequence[ChangedFile]:
        """What the workspace holds beside its base commit, ignored files included (they can be executed too)."""

    @abstractmethod
    async def diff(self) -> Patch:
        """The deliverable: the patch against the base commit, ignored files left out."""

    @abstractmethod
    async def pack(self, sink: OutputSink, *, stays_frozen: bool = False) -> int:
        """All files of the run (workspace, home) as one archive, in order, while everything inside is stopped.

        Returns how many entries could not be read and are missing. The archive is hostile: keep its bytes, never open
        it. With `stays_frozen` nothing inside goes on afterwards, and the sandbox is good for reading, `suspend` and
        `destroy` only.
        """

    @abstractmethod
    async def unpack(self, archive: Path) -> None:
        """Replace all files of the run by a packed archive. After `load`, before the first action."""

    @abstractmethod
    async def apply(self, patch: Path) -> None:
        """Lay a patch that `diff` made over the loaded workspace. After `load`, before the first action.

        Raises `WorkspaceRefused` where it does not fit.
        """

    @abstractmethod
    async def prove(self) -> Proof:
        """Run every probe inside that fits this kind of fence. Part of the log, and of `doctor --prove`."""

    @abstractmethod
    async def remount(self, mounts: tuple[Mount, ...]) -> None:
        """Replace the granted read-only host trees. May restart the sandbox's processes; files and outcomes stay.

        Raises `PathRefused` for what no sandbox is shown (Ringfence's own state and keys), with nothing changed, and
        `IsolationUnavailable` on a backend that cannot show host trees.
        """

    @abstractmethod
    async def suspend(self) -> None:
        """Stop every process and free what they hold; keep files and stored outcomes. `Backend.attach` resumes."""


class EgressGatekeeper(Protocol):
    """Decides on each connection that leaves a sandbox. Asked by the egress proxy, answered by the rooms above.

    `admit` returns only after the opening entry is durable; if it raises, the proxy refuses. `closed` follows once.
    """

    async def admit(self, request: EgressRequest) -> EgressVerdict: ...

    async def closed(
        self, request: EgressRequest, *, sent_bytes: int, received_bytes: int, duration_ms: int
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class EgressRequest:
    """One connection or plain HTTP request. `method` is CONNECT where the content cannot be seen.

    `path` is the path as the server will get it, free of dot segments however encoded; `query` what follows the `?`.
    `is_plain`: an HTTP request that travels without TLS.
    """

    sandbox: SandboxId
    id: str
    host: str
    port: int
    method: str
    path: str = ""
    query: str = ""
    is_plain: bool = False


@dataclass(frozen=True, slots=True)
class EgressVerdict:
    """`is_private_allowed`: the profile names this host as one inside the company, so a private address is fine.

    `headers` are added by the proxy to a request that it opens (never shown to the sandbox). `ends_tls`: the proxy
    ends TLS for this host with the run's own CA. `is_plain_allowed`: bytes that are neither TLS nor HTTP may pass in a
    CONNECT (ssh to a forge). `rule` and `instead` go into a refusal.
    """

    is_allowed: bool
    rule: str
    instead: str = ""
    is_private_allowed: bool = False
    ends_tls: bool = False
    is_plain_allowed: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


class Backend(ABC):
    """Makes and finds sandboxes of one kind. Opened once per process; `close` lets go without destroying any.

    Concurrency: methods may run at once for different ids; for one id the caller holds the run's lease.
    """

    @property
    @abstractmethod
    def kind(self) -> str:
        """`local`, `gvisor` or `kubernetes`."""

    @abstractmethod
    async def check(self) -> Sequence[Layer]:
        """Which layers this machine or cluster can hold. Raises `IsolationUnavailable` where a sandbox cannot start."""

    @abstractmethod
    async def create(self, spec: SandboxSpec, *, egress: EgressGatekeeper | None = None) -> Sandbox:
        """A fresh, empty sandbox. Raises `IsolationUnavailable` rather than give less than the spec asks."""

    @abstractmethod
    async def attach(self, spec: SandboxSpec, *, egress: EgressGatekeeper | None = None) -> Sandbox:
        """Find a sandbox again after a crash or suspension; its processes are restarted where they ended.

        Raises `SandboxGone` where its files are gone, `SandboxRemoved` where an operator took it away.
        """

    @abstractmethod
    async def destroy(self, sandbox: SandboxId) -> None:
        """End every process and remove every trace. Idempotent."""

    @abstractmethod
    async def sweep(self, live: frozenset[SandboxId]) -> Sequence[SandboxId]:
        """Destroy what a crash left behind and is not in `live`; return what was destroyed."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of every connection. Local sandboxes end their processes; their files stay."""
