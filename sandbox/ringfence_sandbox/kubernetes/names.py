"""The names and labels that every Kubernetes object of a sandbox carries.

One place, because admission policies in the chart, the sweeper, operators' `kubectl` lines and this code must agree on
them to the letter.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Final

from ringfence_sandbox.contract import SandboxId

MANAGER: Final = "ringfence"
"""Field manager of every server-side apply, and the value of the managed-by label."""

MANAGED_BY: Final = "app.kubernetes.io/managed-by"
SANDBOX: Final = "ringfence/sandbox"
STATE: Final = "ringfence/state"
"""`pooled`, `claimed`, `running` or `suspended`."""
POOL: Final = "ringfence/pool"
SHAPE: Final = "ringfence/shape"
"""On a pool member: what stays of its label `POOL` after a claim, whose patch needs annotations to add to."""
RUNTIME_CLASS: Final = "ringfence/runtime-class"
"""On the namespace: what the profile demands of every pod in it; admission holds an agent's pods to it as well."""
INSTANCE: Final = "ringfence/instance"
"""Which installation of the control plane made the namespace: a sweeper touches only its own."""

PREFIX: Final = "rf-"
"""What the admission policies hold the orchestrator to."""

ROLE: Final = "ringfence/role"
"""On the sandbox pod only; what its two network openings select. Admission refuses it on any other pod."""

SERVICE_ACCOUNT: Final = "agent"
POD: Final = "sandbox"
CONTAINER: Final = "sandbox"
INSTALLER: Final = "inside"
CREDENTIAL: Final = "inside"

PERSON_LABELS: Final = ("run", "task", "team", "profile", "person")
"""Labels that a spec may set; each becomes `ringfence/NAME` and, unshortened, an annotation of the same name."""

_CHECK: Final = "doctor-"
_SANDBOX_ID: Final = re.compile(r"[a-z](?:[a-z0-9-]{0,38}[a-z0-9])?\Z")


def is_sandbox_id(text: str) -> bool:
    """Whether the text has the form that `contract.SandboxId` promises."""
    return _SANDBOX_ID.match(text) is not None


def check_sandbox() -> SandboxId:
    """The name of a sandbox that `doctor` makes. Random, since in every container of ours the process is number 1."""
    return SandboxId(f"{_CHECK}{os.urandom(8).hex()}")


def is_check(sandbox: str) -> bool:
    """Whether it is a check's, which is in no run's row. No run's sandbox is named so."""
    return sandbox.startswith(_CHECK)


def cold_namespace(sandbox: SandboxId) -> str:
    """The namespace of a sandbox that did not come from a pool. At most 45 characters."""
    return f"{PREFIX}r-{sandbox}"


def pooled_namespace(nonce: str) -> str:
    """The namespace of a pool member. `nonce` is random hex, so no sandbox's name can be guessed from it."""
    return f"{PREFIX}p-{nonce}"


def label_value(text: str) -> str:
    """A valid label value that an operator recognises: unchanged where possible, else cleaned with a digest at its end.

    The digest keeps two names apart that clean to the same text (`ana@a`, `ana.a`), so a selector never mixes them.
    """
    if len(text) <= 63 and re.fullmatch(r"([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?", text):
        return text
    clean = re.sub(r"[^A-Za-z0-9_.-]", ".", text)[:48].strip("._-") or "x"
    return f"{clean}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def person_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels of a spec in their Kubernetes form. Names outside `PERSON_LABELS` are left out."""
    return {f"ringfence/{name}": label_value(labels[name]) for name in PERSON_LABELS if labels.get(name)}


def person_annotations(labels: Mapping[str, str]) -> dict[str, str]:
    """The same values unshortened, bounded at 1 KiB each, for people's eyes."""
    return {f"ringfence/{name}": labels[name][:1024] for name in PERSON_LABELS if labels.get(name)}
