"""What a pod is told of the proxy and of whom to trust: variables for its commands, and the files that they name.

The files are put down over the connection to the in-sandbox server, each time the sandbox is entered: a warm pod of the
pool learns only then whose it is. No object of the cluster holds them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import PurePosixPath

from ringfence_sandbox.connection import ServerConnection
from ringfence_sandbox.contract import SandboxSpec
from ringfence_sandbox.egress.environment import environment, files, proxy_environment, system_roots
from ringfence_sandbox.kubernetes.egress_identity import EgressKey
from ringfence_sandbox.kubernetes.pod import TRUST, has_trust
from ringfence_sandbox.kubernetes.settings import ClusterSettings

CA = PurePosixPath(TRUST) / "ca.pem"


async def tell(
    connection: ServerConnection, spec: SandboxSpec, settings: ClusterSettings, key: EgressKey, *, token: str
) -> Mapping[str, str]:
    """Put the files into the pod, and return the variables. Raises `SandboxError`."""
    host = f"[{settings.egress_address}]" if ":" in settings.egress_address else settings.egress_address
    proxy = f"http://{spec.id}:{token}@{host}:{settings.egress_port}"
    if not has_trust(spec, settings):
        return proxy_environment(proxy)
    for path, data in (await asyncio.to_thread(trusted, proxy, spec, settings, key)).items():
        await connection.request({"op": "trust", "name": path.name}, data)
    return environment(proxy, CA)


def trusted(proxy: str, spec: SandboxSpec, settings: ClusterSettings, key: EgressKey) -> Mapping[PurePosixPath, bytes]:
    """The files: the roots of the machine that this runs on, the company's, and the sandbox's own authority."""
    own = key.authority(spec.id).certificate_pem if spec.ends_tls else b""
    return files(proxy, CA, [text for text in (system_roots(), *settings.company_roots, own) if text])
