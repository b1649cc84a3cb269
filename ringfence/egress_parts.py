"""The egress proxy of a cluster as a process of its own:

    python -m ringfence_sandbox.egress --listen 0.0.0.0:3128 --parts ringfence.egress_parts:parts

It reads who may leave from the database, at each request: profile, grants, and that the run goes on. The opening entry
is durable before it connects, so a database that is away closes everything. It holds no right in the cluster.
"""

from __future__ import annotations

import atexit
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType

from sqlalchemy import Connection, select

from ringfence.cluster_addresses import StandingIdentities
from ringfence.local_store import open_store
from ringfence.settings import LOG_ORIGIN, Settings, load_settings
from ringfence.wiring import egress_of
from ringfence_agents.runs import RunRecord, load
from ringfence_agents.schema import runs
from ringfence_audit.keys import Signer
from ringfence_audit.port import Store
from ringfence_audit.producers import CountedStore
from ringfence_audit.redaction import SHORTEST_VALUE
from ringfence_sandbox.cloning import is_clone
from ringfence_sandbox.contract import EgressRequest, EgressVerdict, SandboxId
from ringfence_sandbox.egress.authority import RunAuthority
from ringfence_sandbox.egress.errors import EgressMisconfigured, Refused
from ringfence_sandbox.egress.hosts import IpAddress
from ringfence_sandbox.egress.service import Identities, ServiceParts
from ringfence_sandbox.errors import IsolationUnavailable
from ringfence_sandbox.kubernetes.egress_identity import EgressKey, carried_by
from ringfence_tools.calls import RunId
from ringfence_tools.egress import CloneEgress, RunEgress
from ringfence_tools.policy import Policy
from ringfence_tools.profile import parse_profile

KEY = "RINGFENCE_EGRESS_KEY"
"""Names the file that holds the key which the control plane shares with the proxy."""
REMEMBERED = 1000
AUTHORITY_KEPT = timedelta(days=1)
"""An authority is made anew before it grows old; its key stays the same."""


class RunsEgress:
    """Decides for every sandbox of the database. Raises `LookupError`, which refuses, where its run does not go on."""

    def __init__(
        self,
        store: Store,
        *,
        secret: Callable[[str], str | None],
        clones: Mapping[SandboxId, CloneEgress] = MappingProxyType({}),
    ) -> None:
        self._store = store
        self._secret = secret
        self._clones = clones
        self._known: OrderedDict[RunId, RunEgress] = OrderedDict()
        """What pinned profiles compile to: they never change, so only that a run goes on is asked anew."""

    async def admit(self, request: EgressRequest) -> EgressVerdict:
        return await (await self._of(request.sandbox)).admit(request)

    async def closed(self, request: EgressRequest, *, sent_bytes: int, received_bytes: int, duration_ms: int) -> None:
        gatekeeper = await self._of(request.sandbox, may_be_over=True)
        await gatekeeper.closed(request, sent_bytes=sent_bytes, received_bytes=received_bytes, duration_ms=duration_ms)

    async def refused(self, refused: Refused) -> None:
        await (await self._of(refused.sandbox, may_be_over=True)).refused(refused)

    async def stands(self, requests: Sequence[EgressRequest]) -> frozenset[str]:
        """Connections of runs that are over stand no more."""
        standing: set[str] = set()
        for sandbox in {request.sandbox for request in requests}:
            try:
                gatekeeper = await self._of(sandbox)
            except LookupError:
                continue
            standing |= await gatekeeper.stands([request for request in requests if request.sandbox == sandbox])
        return frozenset(standing)

    async def _of(self, sandbox: SandboxId, *, may_be_over: bool = False) -> RunEgress | CloneEgress:
        if is_clone(sandbox):
            return self._clones[sandbox]
        run = await self._store.read(lambda connection: _run_of(connection, sandbox, may_be_over=may_be_over))
        if run is None:
            raise LookupError(f"no run that goes on has sandbox {sandbox}")
        if run not in self._known:
            record = await self._store.read(lambda connection: load(connection, run))
            self._known[run] = self._gatekeeper(record)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return self._known[run]

    def _gatekeeper(self, record: RunRecord) -> RunEgress:
        profile = parse_profile(record.profile_document.encode(), record.profile)
        person = record.on_behalf_of.removeprefix("person:")
        policy = Policy.compile(profile)
        return RunEgress(self._store, policy, profile.network, record.id, person, secret=self._secret)


def _run_of(connection: Connection, sandbox: SandboxId, *, may_be_over: bool) -> RunId | None:
    query = select(runs.c.id).where(runs.c.sandbox_id == sandbox)
    if not may_be_over:
        query = query.where(runs.c.ended_at.is_(None))
    found = connection.execute(query).first()
    return None if found is None else RunId(found.id)


class Clones(Identities):
    """Who is who, and what is known of sandboxes that clone: their credentials say it, see `egress_identity`."""

    def __init__(self, identities: Identities, store: Store) -> None:
        self._identities = identities
        self._store = store
        self.known: OrderedDict[SandboxId, CloneEgress] = OrderedDict()

    async def is_theirs(self, sandbox: SandboxId, token: str, address: IpAddress) -> bool:
        if not await self._identities.is_theirs(sandbox, token, address):
            return False
        carried = carried_by(token)
        if bool(carried) != is_clone(sandbox):
            return False
        if carried:
            self.known[sandbox] = CloneEgress.read(self._store, carried)
            self.known.move_to_end(sandbox)
            if len(self.known) > REMEMBERED:
                self.known.popitem(last=False)
        return True


class Authorities:
    """The authority of each sandbox whose TLS the proxy ends, derived from the key and kept for the next connection."""

    def __init__(self, key: EgressKey, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._key = key
        self._now = now
        self._made: OrderedDict[SandboxId, tuple[datetime, RunAuthority]] = OrderedDict()

    def __call__(self, sandbox: SandboxId) -> RunAuthority:
        now = self._now()
        made = self._made.get(sandbox)
        if made is None or now - made[0] > AUTHORITY_KEPT:
            made = self._made[sandbox] = (now, self._key.authority(sandbox, now=now))
        self._made.move_to_end(sandbox)
        if len(self._made) > REMEMBERED:
            self._made.popitem(last=False)
        return made[1]


def egress_key(settings: Settings) -> EgressKey:
    """The shared key. Raises `EgressMisconfigured`."""
    path = Path(os.environ.get(KEY) or settings.home / "egress-proxy.secret")
    try:
        return EgressKey.read(path)
    except IsolationUnavailable as error:
        raise EgressMisconfigured(str(error)) from error


def parts() -> ServiceParts:
    """For `--parts`. The store is open for as long as the process lives."""
    settings = load_settings()
    key = egress_key(settings)
    stack = ExitStack()
    store = stack.enter_context(open_store(settings))
    atexit.register(stack.close)
    signer = Signer.load_or_create(settings.home / "egress-proxy.key", f"{LOG_ORIGIN}/egress")
    log = CountedStore(store, signer, role="egress")

    def secret(name: str) -> str | None:
        value = os.environ.get(name.removeprefix("env:"))
        if value is not None and len(value) >= SHORTEST_VALUE:
            store.redactor.hold(name, value)
        return value

    clones = Clones(StandingIdentities(store, key), log)
    return ServiceParts(
        RunsEgress(log, secret=secret, clones=clones.known),
        clones,
        authority_of=Authorities(key),
        settings=egress_of(settings),
    )
