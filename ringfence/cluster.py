"""The Kubernetes cluster that runs execute on: what the setting `RINGFENCE_KUBERNETES` may say, and its backend.

The Kubernetes client is imported only where a cluster is used: it costs more than most commands do.
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ringfence.errors import Mistake

if TYPE_CHECKING:
    from ringfence.settings import Settings
    from ringfence_audit.port import Store
    from ringfence_sandbox.kubernetes.backend import KubernetesBackend
    from ringfence_sandbox.kubernetes.settings import ClusterSettings

SETTING = "RINGFENCE_KUBERNETES"
EXAMPLE = '{"image": "images.example.org/team/python:3.12", "inside_image": "images.example.org/ringfence/inside:1"}'


class EgressForm(BaseModel):
    """Where the egress proxy stands. `cidr` only for one outside the cluster; inside, it is found by its labels."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    address: str = ""
    """Its IP address as pods see it. Absent: the Service `ringfence-egress` beside this process."""
    port: int = Field(default=3128, ge=1, le=65535)
    cidr: str = ""
    key: Path
    """The file with the key that this process and the proxy share: 32 random bytes."""


class PoolForm(BaseModel):
    """How many prepared namespaces a profile has: what the last minute asked for, between `least` and `most`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    least: int = Field(default=1, ge=0, le=1000)
    most: int = Field(default=8, ge=1, le=1000)


class ClusterForm(BaseModel):
    """`image` is what agents work in where a profile names none; `inside_image` brings the in-sandbox server.

    `reach` is `direct` inside the cluster and `port-forward` outside. `control_cidrs` are addresses outside the cluster
    that may reach sandboxes directly. `storage_class`: workspaces on volume claims, which outlive a suspended pod.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    image: str = Field(min_length=1)
    inside_image: str = Field(min_length=1)
    kubeconfig: Path | None = None
    instance: str = Field(default="", pattern=r"^([a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?)?$")
    """Whose namespaces these are: what a sweeper goes by. Absent: told by the installation's key."""
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    reach: Literal["direct", "port-forward"] | None = None
    control_cidrs: tuple[str, ...] = ()
    namespace: str = "ringfence-system"
    """Where the control plane runs: whence a sandbox may be reached, and where the egress proxy stands."""
    egress: EgressForm | None = None
    """Absent: sandboxes have no way out at all."""
    pool: PoolForm | None = None
    """Absent: every start is a cold one."""
    storage_class: str = ""
    has_storage_limits: bool = True
    has_user_namespaces: bool = True
    sandboxed_runtimes: tuple[str, ...] = ()
    """Runtime classes with a kernel of their own; in these alone Landlock may be missing."""
    cpu_request_milli: int = Field(default=100, ge=1)
    memory_request_mib: int = Field(default=256, ge=16)
    run_manager_role: str = ""
    service_account: str = ""
    """The control plane's own ServiceAccount, to which `run_manager_role` is bound in every run's namespace."""


def cluster_form(settings: Settings) -> ClusterForm:
    """What the setting says. Raises `Mistake`."""
    if not settings.kubernetes:
        raise Mistake("no Kubernetes cluster is set up here", fix=f"Set {SETTING}, for example to {EXAMPLE}")
    try:
        return ClusterForm.model_validate(settings.kubernetes)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise Mistake(f"{SETTING}: {name}: {first['msg']}", fix=f"Write, for example, {EXAMPLE}") from error


def kubeconfig_of(form: ClusterForm, environment: Mapping[str, str]) -> Path | None:
    """The kubeconfig as kubectl would find it; None where this process is a pod of the cluster."""
    if form.kubeconfig is not None:
        return form.kubeconfig.expanduser()
    if named := environment.get("KUBECONFIG"):
        return Path(named.split(os.pathsep)[0])
    if environment.get("KUBERNETES_SERVICE_HOST"):
        return None
    return Path.home() / ".kube" / "config"


def cluster_settings(form: ClusterForm, *, fingerprint: str, is_inside: bool) -> ClusterSettings:
    """The backend's settings. `fingerprint` is the key's; `is_inside`: this process is a pod of the cluster."""
    from ringfence_sandbox.kubernetes.settings import ClusterSettings, Peer, Requests

    return ClusterSettings(
        image=form.image,
        inside_image=form.inside_image,
        instance=form.instance or f"key-{fingerprint}",
        image_pull_policy=form.image_pull_policy,
        reach=form.reach or ("direct" if is_inside else "port-forward"),
        control_peer=Peer(form.namespace, {"ringfence/component": "control-plane"}),
        control_cidrs=form.control_cidrs,
        egress_peer=Peer(form.namespace, {"ringfence/component": "egress"}),
        egress_cidr=form.egress.cidr if form.egress else "",
        egress_port=form.egress.port if form.egress else 3128,
        egress_address=_egress_address(form.egress),
        requests=Requests(cpu_milli=form.cpu_request_milli, memory_bytes=form.memory_request_mib << 20),
        storage_class=form.storage_class,
        has_storage_limits=form.has_storage_limits,
        has_user_namespaces=form.has_user_namespaces,
        sandboxed_runtimes=form.sandboxed_runtimes,
        run_manager_role=form.run_manager_role,
        orchestrator=Peer(form.namespace, {"name": form.service_account}) if form.service_account else None,
    )


def _egress_address(form: EgressForm | None) -> str:
    """Raises `Mistake` where a proxy is wanted and nothing says where it stands."""
    if form is None:
        return ""
    address = form.address or os.environ.get("RINGFENCE_EGRESS_SERVICE_HOST", "")
    try:
        return str(ipaddress.ip_address(address))
    except ValueError as error:
        raise Mistake(
            f"{SETTING}: egress.address: {address or 'nothing'} is no IP address",
            fix="Give the address of the proxy's Service: no name is resolved inside a sandbox",
        ) from error


async def open_cluster(
    settings: Settings, store: Store | None = None, *, roots: tuple[bytes, ...] = ()
) -> KubernetesBackend:
    """The backend of this installation's cluster; nothing is sent yet. Raises `Mistake`, `IsolationUnavailable`.

    With a store sandboxes have the way out that the setting names, and starts claim from its pool; filling that is for
    workers (`Pool.keep`). `roots` are the company's own authorities (PEM), which sandboxes with a way out trust.
    """
    from ringfence.cluster_addresses import SqlAddresses
    from ringfence.cluster_pool import SqlPoolBook
    from ringfence_sandbox.kubernetes.backend import KubernetesBackend
    from ringfence_sandbox.kubernetes.credentials import ControlKey
    from ringfence_sandbox.kubernetes.egress_identity import EgressKey, WayOut
    from ringfence_sandbox.kubernetes.pool_book import Bounds

    form = cluster_form(settings)
    kubeconfig = kubeconfig_of(form, os.environ)
    key = ControlKey.at(settings.sandbox_key)
    how = replace(
        cluster_settings(form, fingerprint=key.fingerprint, is_inside=kubeconfig is None), company_roots=roots
    )
    way_out = None
    if form.egress is not None and store is not None:
        way_out = WayOut(EgressKey.read(form.egress.key), SqlAddresses(store, how.instance))
    backend = await KubernetesBackend.open(how, key=key, way_out=way_out, kubeconfig=kubeconfig)
    if form.pool is not None and store is not None:
        bounds = Bounds(least=form.pool.least, most=max(form.pool.least, form.pool.most))
        backend.use_pool(SqlPoolBook(store, how.instance), bounds)
    return backend


def with_sandbox(document: str, kind: str, settings: Settings) -> str:
    """A pinned profile with its sandbox on a cluster instead of on this machine, everything else unchanged.

    Only that way round: a profile that asks for a cluster or for gVisor never gets less. Raises `Mistake`.
    """
    if kind not in ("local", "kubernetes"):
        raise Mistake(f"there is no sandbox of kind {kind!r}", fix="Use --sandbox local or --sandbox kubernetes")
    data = json.loads(document)
    form = dict(data.get("sandbox") or {})
    named = form.get("kind", "local")
    if named != kind and (named, kind) != ("local", "kubernetes"):
        raise Mistake(
            f"this profile runs in a {named} sandbox, and nobody but its owner changes that",
            fix="Use another profile, or leave --sandbox out",
        )
    if kind == "kubernetes":
        form = {"image": cluster_form(settings).image} | form
    return json.dumps(data | {"sandbox": form | {"kind": kind}}, ensure_ascii=False)
