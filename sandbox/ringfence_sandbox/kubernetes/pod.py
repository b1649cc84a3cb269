"""The Pod of a sandbox: spec → object, pure. What it must never have is what the escape tests look for."""

from __future__ import annotations

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
TRUST = "/ringfence-trust"
"""What tools inside trust where the proxy ends TLS: in memory, filled by the server, to be read by commands only."""
TRUST_BYTES = 8 << 20
TMP = "/tmp"  # noqa: S108 - the pod's own sized emptyDir, not a shared folder
VOLUME = "/ringfence-volume"
"""The whole workspace volume, in the first container alone, which makes its folders."""
HOME = "/home/agent"
CLAIM = "workspace"
IMAGE = "/ringfence-image"
IMAGE_PYTHON = (f"{IMAGE}/lib/ld.so", "--library-path", f"{IMAGE}/lib", f"{IMAGE}/bin/python3", "-I", "-S")
"""How the inside image runs its own Python; also its entry point."""
FIRST_MEMORY_BYTES, FIRST_DISK_BYTES, FIRST_CPUS = 128 << 20, 128 << 20, 1
"""Limits of the first container; the quota has room for them beside the sandbox's own."""
BOOT = "import sys;sys.path.insert(0,sys.argv.pop(1));from inside.server import main;main()"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def python(*arguments: str) -> list[Json]:
    """An argument list for the copied Python. It needs nothing of the image, not even a dynamic loader."""
    return [
        f"{INSIDE}/lib/ld.so", "--library-path", f"{INSIDE}/lib", f"{INSIDE}/bin/python3", "-I", "-S", *arguments,
    ]  # fmt: skip


def has_trust(spec: SandboxSpec, settings: ClusterSettings) -> bool:
    """Whether tools inside are given roots to trust, instead of those of their image alone."""
    return spec.has_egress and bool(settings.egress_address) and (spec.ends_tls or bool(settings.company_roots))


def server_config(spec: SandboxSpec, settings: ClusterSettings) -> dict[str, Json]:
    """The in-sandbox server's `--config`: the same for every sandbox of one shape, and nothing in it is secret."""
    limits = spec.limits
    trust: dict[str, Json] = {"trust": TRUST} if has_trust(spec, settings) else {}
    return {
        **trust,
        "workspace": str(WORKSPACE),
        "state": STATE,
        "output": f"{STATE}/output",
        "environment": {
            "PATH": PATH,
            "HOME": HOME,
            "USER": "agent",
            "LOGNAME": "agent",
            "SHELL": "/bin/bash",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "TMPDIR": TMP,
            "PYTHONDONTWRITEBYTECODE": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "DEBIAN_FRONTEND": "noninteractive",
            "CI": "1",
        },
        "readable": [f"{INSIDE}/bin", f"{INSIDE}/lib", f"{STATE}/output"],
        "hidden": [INSIDE, STATE, CREDENTIAL],
        "git": f"{INSIDE}/bin/git",
        "git_environment": {"LD_LIBRARY_PATH": f"{INSIDE}/lib", "GIT_EXEC_PATH": f"{INSIDE}/bin"},
        "writable": [str(WORKSPACE), HOME, TMP, "/dev"],
        "disk_paths": [str(WORKSPACE), HOME],
        "limits": {
            "memory_bytes": limits.memory_bytes,
            "disk_bytes": limits.disk_bytes,
            "processes": limits.processes,
            "open_files": limits.open_files,
            "file_size_bytes": limits.file_size_bytes,
            "output_bytes": limits.output_bytes,
            "cpus": limits.cpus or 0,
        },
    }


def server_command(spec: SandboxSpec, settings: ClusterSettings) -> list[Json]:
    config = json.dumps(server_config(spec, settings), separators=(",", ":"))
    host = "0.0.0.0" if settings.reach == "direct" else "127.0.0.1"  # noqa: S104 - the pod's own network namespace
    return [
        *python("-c", BOOT, f"{INSIDE}/server.zip", "--config", config),
        "--listen", f"{host}:{settings.server_port}",
        "--cert", f"{CREDENTIAL}/server.crt",
        "--key", f"{CREDENTIAL}/server.key",
        "--client-ca", f"{CREDENTIAL}/client-ca.crt",
    ]  # fmt: skip


def pod(spec: SandboxSpec, settings: ClusterSettings, *, namespace: str) -> dict[str, Json]:
    """The one pod of a sandbox."""
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
        # in this order: the kubelet starts the second when the first one's start hook has returned
        "containers": [_installer(spec, settings), _main(spec, settings)],
        "volumes": _volumes(spec, settings),
    }
    if settings.has_user_namespaces:
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
            "annotations": {
                "kubectl.kubernetes.io/default-container": names.CONTAINER,
                "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
            },
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
    limits: dict[str, Json] = {"memory": str(FIRST_MEMORY_BYTES)}
    requests: dict[str, Json] = {"cpu": "10m", "memory": str(FIRST_MEMORY_BYTES // 4)}
    if spec.limits.cpus is not None:
        limits["cpu"] = str(FIRST_CPUS)
    if settings.has_storage_limits:
        limits["ephemeral-storage"] = str(FIRST_DISK_BYTES)
        requests["ephemeral-storage"] = str(FIRST_DISK_BYTES // 2)
    arguments: list[Json] = [INSIDE, "--window", str(settings.closed_window_s)]
    arguments += ["--closed-within", str(settings.closed_within_s)]
    arguments += ["--volume", VOLUME]
    mounts: list[Json] = [{"name": "inside", "mountPath": INSIDE}, {"name": "workspace", "mountPath": VOLUME}]
    if spec.is_reduced_allowed:
        # an open network is said in the pod's log instead of stopping the start
        arguments.append("--report")
    return {
        "name": names.INSTALLER,
        "image": settings.inside_image,
        "imagePullPolicy": settings.image_pull_policy,
        "args": arguments,
        "lifecycle": {"postStart": {"exec": {"command": [*IMAGE_PYTHON, f"{IMAGE}/install.py", INSIDE, "--wait"]}}},
        "resources": {"requests": requests, "limits": limits},
        "securityContext": _locked(),
        "volumeMounts": mounts,
    }


def _main(spec: SandboxSpec, settings: ClusterSettings) -> dict[str, Json]:
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
        "image": spec.image or settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": server_command(spec, settings),
        "workingDir": str(WORKSPACE),
        "ports": [{"name": "server", "containerPort": settings.server_port, "protocol": "TCP"}],
        "resources": {"requests": requests, "limits": limits},
        "securityContext": _locked(),
        "volumeMounts": [
            *([{"name": "trust", "mountPath": TRUST}] if has_trust(spec, settings) else []),
            {"name": "inside", "mountPath": INSIDE, "readOnly": True},
            {"name": "credential", "mountPath": CREDENTIAL, "readOnly": True},
            {"name": "workspace", "mountPath": str(WORKSPACE), "subPath": "files"},
            {"name": "workspace", "mountPath": HOME, "subPath": "home"},
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
    trust: dict[str, Json] = {"name": "trust", "emptyDir": {"medium": "Memory", "sizeLimit": str(TRUST_BYTES)}}
    return [
        *([trust] if has_trust(spec, settings) else []),
        {"name": "inside", "emptyDir": {"sizeLimit": str(FIRST_DISK_BYTES)}},
        {"name": "credential", "secret": {"secretName": names.CREDENTIAL, "defaultMode": 0o440}},
        workspace,
        # in memory, as locally: truly bounded on every node, and what the in-sandbox server's watch counts on
        {
            "name": "tmp",
            "emptyDir": {"medium": "Memory", "sizeLimit": str(min(spec.limits.tmp_bytes, spec.limits.memory_bytes))},
        },
    ]
