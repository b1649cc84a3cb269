"""A small internet on loopback: one TLS server, its authority, a proxy in front, and an environment for real tools."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from ringfence_sandbox.egress import RunAuthority
from ringfence_sandbox.egress.environment import environment, files


@pytest.fixture
def outside() -> RunAuthority:
    """The certificate authority of the tests' internet."""
    return RunAuthority.create("outside")


class Tools:
    """The environment that a sandbox gets, written to a directory."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def environment(self, port: int, *authorities: RunAuthority) -> dict[str, str]:
        proxy_url, ca_path = f"http://127.0.0.1:{port}", PurePosixPath(self._home / "trust" / "ca.pem")
        for path, data in files(proxy_url, ca_path, [each.certificate_pem for each in authorities]).items():
            Path(path).parent.mkdir(exist_ok=True)
            Path(path).write_bytes(data)
        return {**environment(proxy_url, ca_path), "HOME": str(self._home), "NO_PROXY": "", "no_proxy": ""}


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    return Tools(tmp_path)
