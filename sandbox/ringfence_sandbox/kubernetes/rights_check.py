"""Performing the attacks of `rights` with the orchestrator's own identity: at each start, in `doctor`, in `helm test`.

Everything outside is a dry run. Inside, one namespace of the form of a run's is really made and removed, because a
right inside it is only there once it is bound there. A refusal is RBAC's, Pod Security's (403) or a policy's (422):
silence, a missing or invalid object, a quota or a namespace on its way out proves nothing and is reported as if the
attack had succeeded.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from ringfence_sandbox.errors import IsolationUnavailable
from ringfence_sandbox.kubernetes import kinds, names, objects, rights
from ringfence_sandbox.kubernetes.api import ClusterApi, Reply
from ringfence_sandbox.kubernetes.errors import RequestRefused
from ringfence_sandbox.kubernetes.json_value import child, labels_of, name_of, text
from ringfence_sandbox.kubernetes.rights import Attack, Orchestrator
from ringfence_sandbox.kubernetes.settings import ClusterSettings

OTHER_403 = ("exceeded quota", "unknown for quota", "being terminated")
"""What is forbidden for a reason that tomorrow may not be there."""
DENIED = "denied request"
"""How the API server words what a ValidatingAdmissionPolicy refuses; other answers 422 are about the object's form."""
SAID_BYTES = 64 << 10
CHECK_STATE = "check"
BINDING_WITHIN_S = 10.0
ABANDONED_AFTER = timedelta(minutes=10)
REVIEWED_NAMESPACES = 200
FIX = "install or upgrade the chart, then run `helm test`; the policies are in its templates"


@dataclass(frozen=True, slots=True)
class Tried:
    """One attack and what the API server said. `name` completes "it can …"."""

    name: str
    is_refused: bool
    said: str


@dataclass(frozen=True, slots=True)
class Accident:
    """A right outside the runs' namespaces that no rule of the chart gives."""

    namespace: str
    right: str


def orchestrator_of(settings: ClusterSettings) -> Orchestrator | None:
    """Who the settings say we are; None for a person's own kubeconfig, whose rights are not ours to judge."""
    if settings.orchestrator is None or not settings.run_manager_role:
        return None
    account = settings.orchestrator.labels["name"]
    return Orchestrator(
        settings.orchestrator.namespace,
        account,
        settings.run_manager_role,
        settings.instance,
        settings.image,
        settings.has_user_namespaces,
    )


async def must_hold(api: ClusterApi, who: Orchestrator, *, now: datetime) -> Sequence[Tried]:
    """Perform all attacks. Raises `IsolationUnavailable`, naming the first that succeeded; else what was tried."""
    tried = await attack(api, who, now=now)
    broken = [one for one in tried if not one.is_refused]
    if broken:
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        raise IsolationUnavailable(
            f"the orchestrator's rights are too wide: it can {broken[0].name}{more}: {broken[0].said}", fix=FIX
        )
    return tried


async def attack(api: ClusterApi, who: Orchestrator, *, now: datetime) -> Sequence[Tried]:
    """Every attack with its answer. Raises `IsolationUnavailable` where not even a run's namespace can be made."""
    nonce = os.urandom(5).hex()
    tried = [await attempt(api, one) for one in rights.outside_attacks(who, nonce)]
    for question in rights.questions():
        answer = await api.review(kinds.ACCESS_REVIEW, question.spec())
        is_allowed = child(answer, "status", "allowed") is not False
        tried.append(Tried(question.name, not is_allowed, "allowed by RBAC" if is_allowed else "not allowed"))
    await _remove_old(api, who, now)
    async with _probe_namespace(api, who, nonce) as place:
        tried += [await attempt(api, one) for one in rights.inside_attacks(who, place)]
        async with api.with_token(await api.token(place, names.SERVICE_ACCOUNT)) as agent:
            # what an agent may do works, so that what is refused next is refused for its own reason
            await _until_allowed(
                agent, Attack("", "POST", kinds.POD.path(place), rights.restricted_pod(place, who.image))
            )
            tried += [await attempt(agent, one) for one in rights.agent_attacks(who, place)]
    return tried


async def accidents(api: ClusterApi, who: Orchestrator) -> Sequence[Accident]:
    """Rights beyond the chart's in namespaces that are no run's. Admission never sees reads, so none may exist.

    Looks at no more than `REVIEWED_NAMESPACES`; the API server's answer itself may be incomplete where another
    authoriser than RBAC is at work, which is reported as an accident too.
    """
    found: list[Accident] = []
    spaces = await api.list(kinds.NAMESPACE)
    strangers = sorted(name_of(one) for one in spaces if labels_of(one).get(names.MANAGED_BY) != names.MANAGER)
    for place in strangers[:REVIEWED_NAMESPACES]:
        answer = await api.review(kinds.RULES_REVIEW, {"namespace": place})
        if child(answer, "status", "incomplete"):
            found.append(Accident(place, "unknown: the API server cannot list this identity's rights"))
        found += [Accident(place, right) for right in rights.excess(answer, who)]
    if len(strangers) > REVIEWED_NAMESPACES:
        found.append(Accident(strangers[REVIEWED_NAMESPACES], "unknown: more namespaces than are looked at"))
    return found


async def attempt(api: ClusterApi, one: Attack) -> Tried:
    query = {"fieldManager": names.MANAGER} if one.method in ("POST", "PATCH") else {}
    if one.method != "GET":
        query["dryRun"] = "All"
    if one.content_type.startswith("application/apply"):
        query["force"] = "true"
    reply = await api.attempt(one.method, one.path, query=query, body=one.body, content_type=one.content_type)
    said = f"HTTP {reply.status} {reply.body[:300].decode(errors='replace')}"
    return Tried(one.name, _is_refusal(reply), said)


def _is_refusal(reply: Reply) -> bool:
    words = reply.body[:SAID_BYTES].decode(errors="replace")
    if reply.status == 403:
        return not any(other in words for other in OTHER_403)
    return reply.status == 422 and DENIED in words


async def _until_allowed(api: ClusterApi, one: Attack) -> None:
    """Wait until a request that must be possible is: a binding takes a moment to count. Raises IsolationUnavailable."""
    pause_s, last = 0.02, ""
    try:
        async with asyncio.timeout(BINDING_WITHIN_S):
            while True:
                tried = await attempt(api, one)
                if tried.said.startswith(("HTTP 200", "HTTP 201")):
                    return
                last = tried.said
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, 0.5)
    except TimeoutError as error:
        raise IsolationUnavailable(f"a run cannot be given what it needs: {last}", fix=FIX) from error


@asynccontextmanager
async def _probe_namespace(api: ClusterApi, who: Orchestrator, nonce: str) -> AsyncIterator[str]:
    """A namespace like a run's, with the orchestrator's role and an agent in it; gone afterwards."""
    place = f"{names.PREFIX}check-{nonce}"
    try:
        await api.create(rights.namespace(place, rights.run_labels(who, state=CHECK_STATE)))
    except RequestRefused as error:
        raise IsolationUnavailable(f"a run's namespace cannot be made: {error}", fix=FIX) from error
    try:
        manager = rights.binding(
            place,
            "orchestrator",
            role=("ClusterRole", who.run_manager),
            subject=("ServiceAccount", who.account, who.namespace),
        )
        await api.apply(manager)
        account = objects.service_account(place)
        path = kinds.SERVICE_ACCOUNT.path(place, names.SERVICE_ACCOUNT)
        await _until_allowed(api, Attack("", "PATCH", path, account, "application/apply-patch+yaml"))
        await api.apply(account)
        await api.apply(rights.role(place, names.SERVICE_ACCOUNT, [rights.AGENT_RULE]))
        await api.apply(objects.role_binding(place))
        yield place
    except RequestRefused as error:
        raise IsolationUnavailable(f"a run cannot be given what it needs: {error}", fix=FIX) from error
    finally:
        await asyncio.shield(api.delete(kinds.NAMESPACE, place))


async def _remove_old(api: ClusterApi, who: Orchestrator, now: datetime) -> None:
    """What a check that was cut off has left; one that is young may be another worker's, at work."""
    selector = f"{names.INSTANCE}={who.instance},{names.STATE}={CHECK_STATE}"
    for old in await api.list(kinds.NAMESPACE, selector=selector):
        made = datetime.fromisoformat(text(old, "metadata", "creationTimestamp"))
        if not child(old, "metadata", "deletionTimestamp") and now - made > ABANDONED_AFTER:
            await api.delete(kinds.NAMESPACE, name_of(old))
