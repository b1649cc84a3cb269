"""The environment that every command of a local sandbox starts from."""

from __future__ import annotations

from collections.abc import Mapping

from ringfence_sandbox.contract import SandboxSpec
from ringfence_sandbox.egress import environment
from ringfence_sandbox.local.trust import CA, PROXY

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def command_environment(spec: SandboxSpec) -> Mapping[str, str]:
    """Ours first, then the spec's; with egress what makes tools find the proxy and trust what it shows them."""
    found = {
        "PATH": DEFAULT_PATH,
        "HOME": "/home/agent",
        "USER": "agent",
        "LOGNAME": "agent",
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "TMPDIR": "/tmp",  # noqa: S108 - inside
        "PYTHONDONTWRITEBYTECODE": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "DEBIAN_FRONTEND": "noninteractive",
        "CI": "1",
    }
    if spec.has_egress:
        found |= environment(PROXY, CA)
    return {**found, **spec.environment}
