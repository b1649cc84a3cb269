"""What a person is told where the fence does not hold: which probe, what it saw, what that means, what to do."""

from __future__ import annotations

import pytest

from ringfence_sandbox.contract import Layer
from ringfence_sandbox.inside import probes
from ringfence_sandbox.inside.layers import NAMESPACES
from ringfence_sandbox.local.diagnosis import cause_of, unavailable

LAYERS = (
    *(f"namespace-{name}" for name in NAMESPACES),
    "no-capabilities", "no-new-privileges", "seccomp", "own-uid", "read-only-system", "sized-scratch", "landlock",
)  # fmt: skip


def test_a_probe_that_got_through_is_told_with_what_it_saw_what_it_means_and_the_fix() -> None:
    error = unavailable([Layer("probe no-vsock", False, "the kernel answered socket(40, 1, 0): 3, 0")])
    assert error.missing == (
        "the probe no-vsock got through (seen: the kernel answered socket(40, 1, 0): 3, 0), "
        "so a command reaches a part of the kernel that is to be kept away from it"
    )
    assert "CONFIG_SECCOMP_FILTER" in error.fix
    assert "doctor --prove" in error.fix


def test_what_else_got_through_is_named_and_counted() -> None:
    names = ("no-vsock", "no-bpf", "no-mount", "no-keyctl", "no-ptrace", "no-reboot")
    error = unavailable([Layer(f"probe {name}", False, "x") for name in names])
    assert error.missing.endswith("; also no-bpf, no-mount, no-keyctl, no-ptrace and 1 more")


@pytest.mark.parametrize("name", [*LAYERS, *(f"probe {probe.name}" for probe in probes.PROBES)])
def test_every_layer_and_every_probe_has_a_meaning(name: str) -> None:
    assert cause_of(name) is not None
