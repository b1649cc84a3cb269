"""What a runtime with a kernel of its own may lack: Landlock, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ringfence_sandbox.contract import Layer, SandboxId, SandboxSpec
from ringfence_sandbox.kubernetes.backend import excused
from ringfence_sandbox.kubernetes.settings import ClusterSettings

SETTINGS = ClusterSettings(
    image="images.example.org/team:1", inside_image="images.example.org/inside:1", sandboxed_runtimes=("gvisor",)
)
PLAIN = SandboxSpec(SandboxId("r1-1"))
OWN_KERNEL = replace(PLAIN, runtime_class="gvisor")
LANDLOCK = Layer("landlock", False, "not in this kernel")


@pytest.mark.parametrize(
    ("layer", "spec"),
    [
        (LANDLOCK, PLAIN),
        (LANDLOCK, replace(PLAIN, runtime_class="crun")),
        (Layer("no-new-privileges", False, "programs may gain privileges"), OWN_KERNEL),
        (Layer("seccomp", False, "every system call is there"), OWN_KERNEL),
    ],
)
def test_a_missing_layer_counts_as_missing(layer: Layer, spec: SandboxSpec) -> None:
    assert excused(layer, spec, SETTINGS) == layer


def test_landlock_is_not_needed_where_the_kernel_is_the_sandboxs_own() -> None:
    found = excused(LANDLOCK, OWN_KERNEL, SETTINGS)
    assert found.is_held
    assert "not in this kernel" in found.detail
