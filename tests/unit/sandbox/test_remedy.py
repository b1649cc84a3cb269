"""The one step that mends a machine, found from what the machine says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringfence_sandbox.local.remedy import IN_CONTAINER, remedy

NO_NAMESPACE = "bwrap: No permissions to creating new namespace, likely because the kernel does not allow it"
NO_MAP = "bwrap: setting up uid map: Permission denied"
"""What bubblewrap says on Ubuntu 24.04, where AppArmor takes the rights away after the namespace was made."""


def machine(folder: Path, **settings: str) -> Path:
    for name, value in settings.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value + "\n")
    return folder


@pytest.mark.parametrize(
    ("said", "settings", "step"),
    [
        (
            NO_MAP,
            {"sys__kernel__apparmor_restrict_unprivileged_userns": "1"},
            "apparmor_restrict_unprivileged_userns=0",
        ),
        (NO_NAMESPACE, {"sys__kernel__unprivileged_userns_clone": "0"}, "kernel.unprivileged_userns_clone=1"),
        (NO_NAMESPACE, {"sys__user__max_user_namespaces": "0"}, "user.max_user_namespaces=10000"),
        (
            NO_NAMESPACE,
            {
                "sys__kernel__apparmor_restrict_unprivileged_userns": "0",
                "sys__user__max_user_namespaces": "500",
                "self__status": "Name:\tx\nSeccomp:\t2",
            },
            IN_CONTAINER,
        ),
        ("bwrap: Can't mount proc on /newroot/proc: Operation not permitted", {}, IN_CONTAINER),
        ("bwrap: something else", {"self__status": "Seccomp:\t2"}, "doctor"),
        (NO_NAMESPACE, {"self__status": "Seccomp:\t0"}, "doctor"),
    ],
)
def test_each_cause_has_its_own_step(said: str, settings: dict[str, str], step: str, tmp_path: Path) -> None:
    assert remedy(said, proc=machine(tmp_path, **settings)).endswith(step)
