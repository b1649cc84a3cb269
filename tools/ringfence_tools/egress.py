"""Who may leave a sandbox: the answer that the egress proxy gets for each connection.

The proxy (in the sandbox room) asks before it resolves a name or connects. Here policy decides, a grant answers an
*escalate*, and the opening entry is durable before the proxy goes on. Credentials are looked up here, outside every
sandbox, and only for the hosts that the profile names.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

from ringfence_audit.events import Event, JsonValue, Kind
from ringfence_audit.port import Store, Transaction
from ringfence_sandbox.contract import EgressRequest, EgressVerdict
from ringfence_sandbox.egress.errors import Code, Refused
from ringfence_tools import grants
from ringfence_tools.calls import Access, Decision, Effect, Family, RunId
from ringfence_tools.clock import micros
from ringfence_tools.gate_context import Decider
from ringfence_tools.hosts import resource_of
from ringfence_tools.profile_model import Credential, Network

SENDING = frozenset({"PUT", "POST", "PATCH", "DELETE"})
REPEAT_S = 10.0
REMEMBERED = 10_000
NO_PLAIN = "plain-http"
ASK = 'Ask for it with request_access {"kind": "host", "resource": "HOST:PORT", "reason": "…"}; a person may grant it.'


@dataclass(slots=True)
class _Repeats:
    """How often the same refusal came since it was last written: a flood of attempts must not flood the log."""

    written_at: float
    since: int = 0


@dataclass(slots=True)
class RunEgress:
    """The gatekeeper of one run's sandbox. `secret` gives the value that a credential's `from` names, or None."""

    store: Store
    policy: Decider
    network: Network
    run: RunId
    on_behalf_of: str
    secret: Callable[[str], str | None]
    monotonic: Callable[[], float] = time.monotonic
    _refused: dict[tuple[str, int, str], _Repeats] = field(default_factory=dict)

    async def admit(self, request: EgressRequest) -> EgressVerdict:
        """Decide, and return once the entry is durable. Whatever is raised here means refusal to the proxy."""
        access = access_of(request)
        decided = self.policy.decide("egress", (access,))
        if request.is_plain and not self._is_plain_allowed(request):
            said = f"Use https. A profile can name {request.host} under network.plain; a grant cannot open this."
            return await self._refuse(request, decided, rule=NO_PLAIN, instead=said)
        if self._is_handshake(request):
            return await self._admit_handshake(request, decided)
        credential = self._credential(request)
        headers = {} if credential is None else self._headers(credential)
        if headers is None:
            return await self._refuse(request, decided, rule="credential-missing", instead="Tell a platform engineer.")

        def work(tx: Transaction) -> tuple[bool, Sequence[str]]:
            taken: Sequence[str] = ()
            if decided.effect is Effect.ESCALATE:
                found = grants.take(tx, self.run, (access,), call=None)
                if found is None:
                    return False, ()
                taken = found
            elif decided.effect is Effect.FORBID:
                return False, ()
            data = self._data(request, decided) | {"grants": list(taken), "credential": bool(headers)}
            # What nobody reads may send anything to anyone there; an auditor must be able to tell.
            data["is_opened"] = request.method != "CONNECT"
            tx.record(Event(Kind.EGRESS_OPENED, f"agent:{self.run}", data, self.run, "", self._person))
            return True, taken

        is_open, taken = await self.store.write(work)
        if not is_open:
            return await self._refuse(request, decided, rule=decided.rules[0] if decided.rules else "unmatched")
        return EgressVerdict(
            is_allowed=True,
            rule=taken[0] if taken else (decided.rules[0] if decided.rules else "unmatched"),
            is_private_allowed=is_listed(self.network.private, request.host, request.port),
            headers=headers,
        )

    async def _admit_handshake(self, request: EgressRequest, decided: Decision) -> EgressVerdict:
        """A CONNECT whose TLS the proxy ends: nothing leaves by it, since each request inside is asked for itself.

        So a grant is not used up here, and what no rule speaks of waits for the method and path that one may name.
        """
        if _is_forbidden_whole(decided):
            return await self._refuse(request, decided, rule=decided.rules[0])
        data = self._data(request, decided) | {"effect": "handshake", "is_opened": True}
        event = Event(Kind.EGRESS_OPENED, f"agent:{self.run}", data, self.run, "", self._person)
        await self.store.write(lambda tx: tx.record(event))
        return EgressVerdict(
            is_allowed=True,
            rule="opened",
            is_private_allowed=is_listed(self.network.private, request.host, request.port),
            ends_tls=True,
        )

    def _is_plain_allowed(self, request: EgressRequest) -> bool:
        """By name, or by a port that means nothing else: `example.org` alone is open by TLS only."""
        named = (*self.network.plain, *(pattern for pattern in self.network.allow if pattern.endswith(":80")))
        return is_listed(named, request.host, request.port)

    def _is_handshake(self, request: EgressRequest) -> bool:
        is_named = is_listed(self.network.opened, request.host, request.port) or self._credential(request) is not None
        return request.method == "CONNECT" and is_named

    async def refused(self, refused: Refused) -> None:
        """Record what the proxy refused by itself; what was refused here has its entry already."""
        if refused.code is Code.HOST_REFUSED:
            return
        request = refused.request
        key = (request.host if request else "", request.port if request else 0, str(refused.code))
        repeats = self._repeats(key)
        if repeats is None:
            return
        data: dict[str, JsonValue] = {
            "connection": request.id if request else "",
            "host": key[0],
            "port": key[1],
            "method": request.method if request else "",
            "path": request.path if request else "",
            "effect": "forbid",
            "rules": [refused.rule or str(refused.code)],
            "rule": refused.rule or str(refused.code),
            "reason": refused.reason,
            "repeats_before": repeats,
        }
        await self._record_refusal(data, key)

    async def closed(self, request: EgressRequest, *, sent_bytes: int, received_bytes: int, duration_ms: int) -> None:
        """Record how much went each way."""
        data: dict[str, JsonValue] = {
            "connection": request.id,
            "host": request.host,
            "port": request.port,
            "sent_bytes": sent_bytes,
            "received_bytes": received_bytes,
            "duration_ms": duration_ms,
        }
        event = Event(Kind.EGRESS_CLOSED, f"agent:{self.run}", data, self.run, "", self._person)
        await self.store.write(lambda tx: tx.record(event))

    async def stands(self, requests: Sequence[EgressRequest]) -> frozenset[str]:
        """Which open connections may stay: a grant that ended, or that a person revoked, ends its tunnels."""

        def work(tx: Transaction) -> tuple[grants.Grant, ...]:
            return grants.live(tx.connection, self.run, micros(tx.now), is_use_needed=False)

        live = await self.store.write(work)
        return frozenset(request.id for request in requests if self._stands(request, live))

    def _stands(self, request: EgressRequest, live: Sequence[grants.Grant]) -> bool:
        access = access_of(request)
        decided = self.policy.decide("egress", (access,))
        if self._is_handshake(request):
            return not _is_forbidden_whole(decided)
        if decided.effect is Effect.ESCALATE:
            return any(grant.covers(access) for grant in live)
        return decided.effect is Effect.ALLOW

    @property
    def _person(self) -> str:
        return f"person:{self.on_behalf_of}"

    async def _refuse(
        self, request: EgressRequest, decided: Decision, *, rule: str, instead: str = ""
    ) -> EgressVerdict:
        key = (request.host, request.port, request.method)
        repeats = self._repeats(key)
        if repeats is not None:
            await self._record_refusal(self._data(request, decided) | {"rule": rule, "repeats_before": repeats}, key)
        is_askable = decided.effect is Effect.ESCALATE and rule != NO_PLAIN
        ask = ASK.replace("HOST:PORT", resource_of(request.host, request.port)) if is_askable else ""
        said = " ".join(part for part in (decided.instead, ask) if part)
        return EgressVerdict(is_allowed=False, rule=rule, instead=instead or said)

    def _repeats(self, key: tuple[str, int, str]) -> int | None:
        """How often this came since it was last written; None where that was a moment ago and counting is enough."""
        seen = self._refused.get(key)
        if seen is not None and self.monotonic() - seen.written_at < REPEAT_S:
            seen.since += 1
            return None
        return seen.since if seen else 0

    async def _record_refusal(self, data: dict[str, JsonValue], key: tuple[str, int, str]) -> None:
        event = Event(Kind.EGRESS_REFUSED, f"agent:{self.run}", data, self.run, "", self._person)
        await self.store.write(lambda tx: tx.record(event))
        if len(self._refused) >= REMEMBERED:
            self._refused.clear()
        self._refused[key] = _Repeats(self.monotonic())

    def _data(self, request: EgressRequest, decided: Decision) -> dict[str, JsonValue]:
        return {
            "connection": request.id,
            "host": request.host,
            "port": request.port,
            "method": request.method,
            "path": request.path,
            "effect": decided.effect.value,
            "rules": list(decided.rules),
            "policy_version": decided.policy_version,
        }

    def _credential(self, request: EgressRequest) -> Credential | None:
        named = (found for found in self.network.credentials if is_listed((found.host,), request.host, request.port))
        return next(named, None)

    def _headers(self, credential: Credential) -> Mapping[str, str] | None:
        value = self.secret(credential.source)
        return None if not value else {credential.header: credential.value(value)}


def _is_forbidden_whole(decided: Decision) -> bool:
    """Whether a rule forbids the host as such. That no rule matched says nothing yet: one may name method and path."""
    return decided.effect is Effect.FORBID and decided.rules != ("unmatched",)


def access_of(request: EgressRequest) -> Access:
    """The access that a connection comes down to."""
    attributes: dict[str, str | int | bool] = {"method": request.method, "sends": request.method in SENDING}
    if request.path:
        # Judged as a server reads it: `/%61dmin` and `//admin` are `/admin`. What goes out is spelled as it came.
        attributes["path"] = re.sub(r"/{2,}", "/", unquote(request.path))
    return Access(Family.NETWORK, resource_of(request.host, request.port), attributes)


def is_listed(patterns: Sequence[str], host: str, port: int) -> bool:
    """Whether a pattern of a profile (`host`, `*.domain`, `*`, each with an optional port) names this place."""
    return any(_matches(pattern, host, port) for pattern in patterns)


def _matches(pattern: str, host: str, port: int) -> bool:
    name, colon, wanted = pattern.rpartition(":")
    has_port = bool(colon) and wanted.isdigit() and (name.endswith("]") or ":" not in name)
    name = (name if has_port else pattern).strip("[]")
    if has_port and int(wanted) != port:
        return False
    if name == "*":
        return True
    return host.endswith(name[1:]) and host != name[2:] if name.startswith("*.") else host == name


@dataclass(frozen=True, slots=True)
class CloneEgress:
    """The gatekeeper while a repository is cloned: the one place that the person named, and nothing else."""

    store: Store
    run: RunId
    person: str
    host: str
    port: int
    is_private_allowed: bool = False

    async def admit(self, request: EgressRequest) -> EgressVerdict:
        """Allowed is exactly the URL's host and port, since the person who assigned the task named it."""
        is_named = (request.host, request.port) == (self.host, self.port)
        kind = Kind.EGRESS_OPENED if is_named else Kind.EGRESS_REFUSED
        data: dict[str, JsonValue] = {
            "connection": request.id,
            "host": request.host,
            "port": request.port,
            "method": request.method,
            "rules": ["clone"],
        }
        await self.store.write(lambda tx: tx.record(Event(kind, self.person, data, self.run)))
        return EgressVerdict(
            is_allowed=is_named,
            rule="clone",
            instead="" if is_named else f"Only {resource_of(self.host, self.port)} is open while it is cloned.",
            is_private_allowed=self.is_private_allowed,
        )

    async def closed(self, request: EgressRequest, *, sent_bytes: int, received_bytes: int, duration_ms: int) -> None:
        """Record how much went each way."""
        data: dict[str, JsonValue] = {
            "connection": request.id,
            "host": request.host,
            "port": request.port,
            "sent_bytes": sent_bytes,
            "received_bytes": received_bytes,
            "duration_ms": duration_ms,
        }
        await self.store.write(lambda tx: tx.record(Event(Kind.EGRESS_CLOSED, self.person, data, self.run)))

    async def refused(self, refused: Refused) -> None:
        """Record what the proxy refused by itself; what was refused here has its entry already."""
        if refused.code is Code.HOST_REFUSED:
            return
        asked = refused.request
        data: dict[str, JsonValue] = {
            "connection": asked.id if asked else "",
            "host": asked.host if asked else "",
            "port": asked.port if asked else 0,
            "rules": ["clone"],
            "reason": refused.reason,
        }
        await self.store.write(lambda tx: tx.record(Event(Kind.EGRESS_REFUSED, self.person, data, self.run)))

    async def stands(self, requests: Sequence[EgressRequest]) -> frozenset[str]:
        """All of them: its sandbox ends with the clone."""
        return frozenset(request.id for request in requests)

    def carried(self) -> str:
        """What `read` reads: for a proxy that is another process, in the sandbox's own credential."""
        return json.dumps([self.run, self.person, self.host, self.port, self.is_private_allowed])

    @classmethod
    def read(cls, store: Store, carried: str) -> CloneEgress:
        """The gatekeeper that `carried` wrote. Only for a text that is known to be our own."""
        run, person, host, port, is_private_allowed = json.loads(carried)
        return cls(store, RunId(run), person, host, port, is_private_allowed)
