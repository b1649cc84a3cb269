"""The environment that every command of a local sandbox starts from."""

from __future__ import annotations

from collections.abc import Mapping

from ringfence_sandbox.contract import SandboxSpec

PROXY = "http://127.0.0.1:3128"
NO_PROXY = "localhost,127.0.0.1,::1"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def command_environment(spec: SandboxSpec) -> Mapping[str, str]:
    """Ours first, then the spec's; with egress the proxy's address in every form that tools look for."""
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
        for name in ("http_proxy", "https_proxy", "all_proxy", "npm_config_proxy", "npm_config_https_proxy"):
            found[name] = PROXY
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "PIP_PROXY"):
            found[name] = PROXY
        found |= {"no_proxy": NO_PROXY, "NO_PROXY": NO_PROXY}
    return {**found, **spec.environment}
