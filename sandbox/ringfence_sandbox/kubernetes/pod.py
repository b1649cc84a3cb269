"""The Pod of a sandbox: spec → object, pure. What it must never have is what the escape tests look for."""

from __future__ import annotations

import hashlib
import json

from ringfence_sandbox.contract import WORKSPACE, SandboxSpec
from ringfence_sandbox.kubernetes import names
from ringfence_sandbox.kubernetes.json_value import Json
from ringfence_sandbox.kubernetes.settings import ClusterSettings

INSIDE = "/ringfence"
"""Where the copied Python and the server lie in every pod, read-only in the main container."""
STATE = "/ringfence-state"
"""Where the server keeps outcomes: on the workspace's volume, so that they live and travel with the files."""
CREDENTIAL = "/ringfence-credential"
"""The server's certificate and key, and who it lets in."""
TMP = "/tmp"  # noqa: S108 - the pod's own sized emptyDir, not a shared folder
CLAIM = "workspace"


def pod(
    spec: SandboxSpec, settings: ClusterSettings, *, namespace: str, server: tuple[str, ...], has_user_namespaces: bool
) -> dict[str, Json]:
    """The one pod of a sandbox. `server` is the argument list that starts the in-sandbox server."""
    image = spec.image or settings.image
    body: dict[str, Json] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "serviceAccountName": names.SERVICE_ACCOUNT,
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 1,
        # No name is ever resolved inside; an empty resolver makes a lookup fail at once instead of after a timeout.
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["127.0.0.1"], "options": [{"name": "timeout", "value": "1"}]},
        "hostNetwork": False,
        "hostPID": False,
        "hostIPC": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": settings.uid,
            "runAsGroup": settings.uid,
            "fsGroup": settings.uid,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": [_installer(spec, settings)],
        "containers": [_main(spec, settings, image=image, server=server)],
        "volumes": _volumes(spec, settings),
    }
    if has_user_namespaces:
        body["hostUsers"] = False
    if spec.runtime_class:
        body["runtimeClassName"] = spec.runtime_class
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": names.POD,
            "namespace": namespace,
            "labels": {names.MANAGED_BY: names.MANAGER, names.ROLE: names.POD},
            "annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"},
        },
        "spec": body,
    }


def _locked() -> dict[str, Json]:
    return {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _installer(spec: SandboxSpec, settings: ClusterSettings) -> dict[str, Json]:
    memory = min(128 << 20, spec.limits.memory_bytes)
    limits: dict[str, Json] = {"memory": str(memory)}
    requests: dict[str, Json] = {"cpu": "10m", "memory": str(min(32 << 20, memory))}
    if settings.has_storage_limits:
        limits["ephemeral-storage"] = str(min(128 << 20, spec.limits.disk_bytes))
        requests["ephemeral-storage"] = str(min(64 << 20, spec.limits.disk_bytes))
    return {
        "name": "inside",
        "image": settings.inside_image,
        "imagePullPolicy": settings.image_pull_policy,
        "resources": {"requests": requests, "limits": limits},
        "securityContext": _locked(),
        "volumeMounts": [{"name": "inside", "mountPath": INSIDE}],
    }


def _main(spec: SandboxSpec, settings: ClusterSettings, *, image: str, server: tuple[str, ...]) -> dict[str, Json]:
    limits: dict[str, Json] = {"memory": str(spec.limits.memory_bytes)}
    asked = settings.requests
    requests: dict[str, Json] = {
        "cpu": f"{asked.cpu_milli}m",
        "memory": str(min(asked.memory_bytes, spec.limits.memory_bytes)),
    }
    if settings.has_storage_limits:
        limits["ephemeral-storage"] = str(spec.limits.disk_bytes)
        requests["ephemeral-storage"] = str(min(asked.storage_bytes, spec.limits.disk_bytes))
    if spec.limits.cpus is not None:
        limits["cpu"] = str(spec.limits.cpus)
    return {
        "name": names.CONTAINER,
        "image": image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": list(server),
        "workingDir": str(WORKSPACE),
        "ports": [{"name": "server", "containerPort": settings.server_port, "protocol": "TCP"}],
        "resources": {"requests": requests, "limits": limits},
        "securityContext": _locked(),
        "volumeMounts": [
            {"name": "inside", "mountPath": INSIDE, "readOnly": True},
            {"name": "credential", "mountPath": CREDENTIAL, "readOnly": True},
            {"name": "workspace", "mountPath": str(WORKSPACE), "subPath": "files"},
            {"name": "workspace", "mountPath": STATE, "subPath": "state"},
            {"name": "tmp", "mountPath": TMP},
        ],
    }


def _volumes(spec: SandboxSpec, settings: ClusterSettings) -> list[Json]:
    workspace: dict[str, Json] = {"name": "workspace"}
    if settings.storage_class:
        workspace["persistentVolumeClaim"] = {"claimName": CLAIM}
    else:
        workspace["emptyDir"] = {"sizeLimit": str(spec.limits.disk_bytes)}
    return [
        {"name": "inside", "emptyDir": {"sizeLimit": "128Mi"}},
        {"name": "credential", "secret": {"secretName": names.CREDENTIAL, "defaultMode": 0o440}},
        workspace,
        {"name": "tmp", "emptyDir": {"sizeLimit": str(spec.limits.tmp_bytes)}},
    ]


def shape_digest(spec: SandboxSpec, settings: ClusterSettings) -> str:
    """What two specs must share for one warm pod to serve either: all that is fixed once a pod runs. 16 hex digits."""
    fixed = {
        "image": spec.image or settings.image,
        "runtime_class": spec.runtime_class,
        "limits": [getattr(spec.limits, name) for name in spec.limits.__slots__],
        "inside": settings.inside_image,
        "egress": spec.has_egress,
        "storage": settings.storage_class,
        "port": settings.server_port,
    }
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:16]
