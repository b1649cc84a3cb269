"""The API server, as the rest of this package sees it: plain JSON in and out, our errors, patience with faults.

The only module that speaks through the `kubernetes` client. The generated models are left aside: objects come from
pure functions as JSON, and one server-side apply is one request. Every method is safe to repeat; requests that are not
(a create) report `Conflict`, which the caller settles by reading.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

import aiohttp
from kubernetes.aio import client as kubernetes_client
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.config.config_exception import ConfigException

from ringfence_sandbox.errors import IsolationUnavailable, ProtocolViolation
from ringfence_sandbox.kubernetes import kinds, names
from ringfence_sandbox.kubernetes.errors import (
    ClusterUnavailable,
    Conflict,
    ObjectNotFound,
    QuotaFull,
    RequestRefused,
)
from ringfence_sandbox.kubernetes.json_value import Json, Object, child, objects, text
from ringfence_sandbox.kubernetes.kinds import Kind

Query: TypeAlias = Mapping[str, str]

_APPLY: Final = "application/apply-patch+yaml"
_JSON_PATCH: Final = "application/json-patch+json"
_MERGE_PATCH: Final = "application/merge-patch+json"
_UNFITTING: Final = "the server rejected our request due to an error in our request"
"""All that the API server says of a JSON patch that does not fit the object as it is."""
_ANSWER_LIMIT: Final = 64 << 20
_RETRIED: Final = frozenset({429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Change:
    """One event of a watch. `BOOKMARK` carries only a resourceVersion."""

    type: str
    object: Object


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes


class ClusterApi:
    """One connection pool to one API server, under one identity. Use as a context manager or call `close`."""

    def __init__(
        self,
        client: kubernetes_client.ApiClient,
        *,
        patience_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._patience_s = patience_s
        self._clock = clock
        self.requests = 0
        """How many requests were sent, retries included: the bench prints them per run."""

    @classmethod
    async def open(cls, kubeconfig: Path | None = None, *, patience_s: float = 60.0) -> ClusterApi:
        """Connect as the kubeconfig says; without one, as the pod's own ServiceAccount.

        Raises `IsolationUnavailable` where neither can be read. Sends nothing yet.
        """
        configuration = kubernetes_client.Configuration()
        try:
            if kubeconfig is not None:
                await kubernetes_config.load_kube_config(  # type: ignore[no-untyped-call] # the client has no types here
                    config_file=str(kubeconfig), client_configuration=configuration, persist_config=False
                )
            else:
                kubernetes_config.load_incluster_config(configuration)  # type: ignore[no-untyped-call] # as above
        except (ConfigException, OSError) as error:
            raise IsolationUnavailable(
                f"no way to a Kubernetes cluster: {error}",
                fix="name a kubeconfig that can be read, or run inside a pod with a ServiceAccount",
            ) from error
        return cls(cls._client_of(configuration), patience_s=patience_s)

    @staticmethod
    def _client_of(configuration: kubernetes_client.Configuration) -> kubernetes_client.ApiClient:
        configuration.retries = 0
        configuration.connection_pool_maxsize = 100
        client = kubernetes_client.ApiClient(configuration)
        client.user_agent = names.MANAGER
        return client

    def with_token(self, token: str) -> ClusterApi:
        """The same API server under another identity, and nothing of ours: no client certificate, no hook."""
        mine = self._client.configuration
        theirs = kubernetes_client.Configuration()
        theirs.host = mine.host
        theirs.ssl_ca_cert = mine.ssl_ca_cert
        theirs.ca_cert_data = mine.ca_cert_data
        theirs.verify_ssl = mine.verify_ssl
        theirs.tls_server_name = mine.tls_server_name
        theirs.proxy = mine.proxy
        theirs.api_key["BearerToken"] = f"Bearer {token}"
        return ClusterApi(self._client_of(theirs), patience_s=self._patience_s)

    async def __aenter__(self) -> ClusterApi:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._client.close()  # type: ignore[no-untyped-call] # the client has no types here

    # -- objects -------------------------------------------------------------------------------------------------

    async def apply(self, thing: Object, *, dry_run: bool = False, manager: str = names.MANAGER) -> Object:
        """Server-side apply: makes the object or brings our fields to what is given. Returns what stands then."""
        query = {"fieldManager": manager, "force": "true"}
        if dry_run:
            query["dryRun"] = "All"
        return await self._json("PATCH", kinds.path_of(thing), query=query, body=thing, content_type=_APPLY)

    async def create(self, thing: Object) -> Object:
        """Make an object that must not exist. Raises `Conflict` where it does (perhaps by our own lost answer)."""
        path = kinds.kind_of(thing).path(text(thing, "metadata", "namespace"))
        return await self._json("POST", path, query={"fieldManager": names.MANAGER}, body=thing)

    async def get(self, kind: Kind, name: str, *, namespace: str = "") -> Object:
        """Read one object. Raises `ObjectNotFound`."""
        return await self._json("GET", kind.path(namespace, name))

    async def find(self, kind: Kind, name: str, *, namespace: str = "") -> Object | None:
        """Read one object, None where there is none."""
        try:
            return await self.get(kind, name, namespace=namespace)
        except ObjectNotFound:
            return None

    async def list(self, kind: Kind, *, namespace: str = "", selector: str = "") -> Sequence[Object]:
        """All objects that a label selector names, read page by page."""
        found: list[Object] = []
        query = {"limit": "500"} | ({"labelSelector": selector} if selector else {})
        while True:
            answer = await self._json("GET", kind.path(namespace), query=query)
            found += objects(answer, "items")
            more = text(answer, "metadata", "continue")
            if not more:
                return found
            query["continue"] = more

    async def page(self, kind: Kind, *, namespace: str, query: Query) -> Object:
        """One page of a list, as the query bounds it."""
        return await self._json("GET", kind.path(namespace), query=query)

    async def delete(
        self, kind: Kind, name: str, *, namespace: str = "", uid: str = "", grace_s: int | None = None
    ) -> bool:
        """Ask for an object's deletion; False where there is none. `uid` guards against deleting a successor."""
        body: dict[str, Json] = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        if uid:
            body["preconditions"] = {"uid": uid}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        try:
            await self._json("DELETE", kind.path(namespace, name), body=body)
        except ObjectNotFound:
            return False
        return True

    async def json_patch(self, kind: Kind, name: str, operations: Sequence[Json], *, namespace: str = "") -> Object:
        """RFC 6902. A failed `test`, or a path that is not there any more, raises `Conflict`; what admission or
        validation will not have is `RequestRefused`."""
        query = {"fieldManager": names.MANAGER}
        path = kind.path(namespace, name)
        try:
            return await self._json("PATCH", path, query=query, body=operations, content_type=_JSON_PATCH)
        except RequestRefused as error:
            if error.status == 422 and _UNFITTING in str(error):
                raise Conflict(str(error)) from error
            raise

    async def review(self, kind: Kind, spec: Object) -> Object:
        """Ask the API server what the caller may do (SelfSubject…Review)."""
        word = {
            "selfsubjectaccessreviews": "SelfSubjectAccessReview",
            "selfsubjectrulesreviews": "SelfSubjectRulesReview",
        }
        body: Object = {"apiVersion": f"{kind.group}/{kind.version}", "kind": word[kind.plural], "spec": spec}
        return await self._json("POST", kind.path(), body=body)

    async def token(self, namespace: str, service_account: str, *, expiry_s: int = 600) -> str:
        """A short-lived token of a ServiceAccount (TokenRequest). The API server gives at least 600 s."""
        body: Object = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": expiry_s},
        }
        path = kinds.SERVICE_ACCOUNT.path(namespace, service_account, "token")
        return text(await self._json("POST", path, body=body), "status", "token")

    async def logs(
        self,
        namespace: str,
        pod: str,
        *,
        container: str = "",
        tail_lines: int = 200,
        limit_bytes: int = 1 << 20,
        is_previous: bool = False,
    ) -> bytes:
        """The last lines that a container wrote, or the one before it."""
        query = {"tailLines": str(tail_lines), "limitBytes": str(limit_bytes)}
        query |= {"previous": "true"} if is_previous else {}
        if container:
            query["container"] = container
        reply = await self._send("GET", kinds.POD.path(namespace, pod, "log"), query=query)
        return reply.body

    async def attempt(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Json = None,
        content_type: str = "application/json",
    ) -> Reply:
        """One request whose refusal is an answer and not an error: for proving what this identity may not do.

        Raises `ClusterUnavailable` where the API server is away, so that silence is never taken for a refusal.
        """
        try:
            response = await self._request(method, path, query or {}, body, content_type, timeout_s=30)
            return Reply(response.status, await _body(response))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ClusterUnavailable(f"the API server did not answer {method} {path}: {error}") from error

    async def version(self) -> str:
        """The server's version, such as v1.37.2: also the cheapest way to ask whether it is there."""
        return text(await self._json("GET", "/version"), "gitVersion")

    async def watch(
        self,
        kind: Kind,
        *,
        namespace: str = "",
        selector: str = "",
        name: str = "",
        version: str = "",
        timeout_s: int = 300,
    ) -> AsyncIterator[Change]:
        """Changes as they come, until `timeout_s`. Raises `Conflict` when `version` is too old (list again)."""
        query = {"watch": "true", "timeoutSeconds": str(timeout_s), "allowWatchBookmarks": "true"}
        if selector:
            query["labelSelector"] = selector
        if name:
            query["fieldSelector"] = f"metadata.name={name}"
        if version:
            query["resourceVersion"] = version
        response = await self._request("GET", kind.path(namespace), query, None, "", timeout_s=timeout_s + 30)
        try:
            if response.status != 200:
                raise _error(response.status, await response.read(), kind.plural)
            async for line in response.content:
                event = _parse(line)
                change = Change(text(event, "type"), _object(child(event, "object")))
                if change.type == "ERROR":
                    raise Conflict(f"watch of {kind.plural}: {text(change.object, 'message')}")
                yield change
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ClusterUnavailable(f"watch of {kind.plural} ended: {error}") from error
        finally:
            response.close()

    def websocket(self, path: str, query: Sequence[tuple[str, str]], *, protocol: str) -> Dial:
        """A dial for a streaming subresource (exec, port-forward), used by `streams`."""
        return Dial(self, path, tuple(query), protocol)

    # -- requests ------------------------------------------------------------------------------------------------

    async def _json(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Json = None,
        content_type: str = "application/json",
    ) -> Object:
        reply = await self._send(method, path, query=query, body=body, content_type=content_type)
        return _parse(reply.body)

    async def _send(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Json = None,
        content_type: str = "application/json",
    ) -> Reply:
        end = self._clock() + self._patience_s
        pause_s = 0.05
        while True:
            try:
                response = await self._request(method, path, query or {}, body, content_type, timeout_s=30)
                data = await _body(response)
                if response.status < 300:
                    return Reply(response.status, data)
                error: Exception = _error(response.status, data, f"{method} {path}")
                wait_s = _retry_after(response.headers.get("Retry-After", ""))
                is_final = not isinstance(error, ClusterUnavailable)
            except (aiohttp.ClientError, TimeoutError, OSError) as caught:
                error = ClusterUnavailable(
                    f"the API server did not answer {method} {path}: {caught or type(caught).__name__}"
                )
                error.__cause__ = caught
                wait_s, is_final = 0.0, False
            pause_s = max(wait_s, min(pause_s * 2, 2.0))
            if is_final or self._clock() + pause_s > end:
                raise error
            await asyncio.sleep(pause_s)

    async def _request(
        self, method: str, path: str, query: Query, body: Json, content_type: str, *, timeout_s: float
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": "application/json"} | ({"Content-Type": content_type} if content_type else {})
        _, url, signed, *_ = await self._client.param_serialize(
            method, path, query_params=list(query.items()), header_params=headers, auth_settings=["BearerToken"]
        )
        rest = self._client.rest_client
        if rest.pool_manager is None:
            rest.pool_manager = rest._create_pool_manager()
        self.requests += 1
        return await rest.pool_manager.request(
            method,
            url,
            headers=signed,
            data=None if body is None else json.dumps(body).encode(),
            timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=5),
            server_hostname=self._client.configuration.tls_server_name or None,
            proxy=self._client.configuration.proxy,
        )


@dataclass(frozen=True, slots=True)
class Dial:
    """How to open one websocket of the API server."""

    api: ClusterApi
    path: str
    query: tuple[tuple[str, str], ...]
    protocol: str

    async def open(self) -> aiohttp.ClientWebSocketResponse:
        """Raises `ClusterUnavailable` or `RequestRefused`. The caller closes it."""
        client = self.api._client
        _, url, headers, *_ = await client.param_serialize(
            "GET", self.path, query_params=list(self.query), header_params={}, auth_settings=["BearerToken"]
        )
        rest = client.rest_client
        if rest.pool_manager is None:
            rest.pool_manager = rest._create_pool_manager()
        self.api.requests += 1
        try:
            return await rest.pool_manager.ws_connect(
                url.replace("http", "ws", 1),
                headers=headers,
                protocols=(self.protocol,),
                max_msg_size=0,
                proxy=client.configuration.proxy,
            )
        except aiohttp.WSServerHandshakeError as error:
            raise _error(error.status, b"", self.path) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ClusterUnavailable(f"the API server did not open {self.path}: {error}") from error


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """The whole answer, bounded. Raises `ProtocolViolation` beyond the bound."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > _ANSWER_LIMIT:
            response.close()
            raise ProtocolViolation("the API server's answer is too large")
        chunks.append(chunk)
    return b"".join(chunks)


def _parse(data: bytes) -> Object:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise ProtocolViolation("the API server's answer is not JSON") from error
    return _object(value)


def _object(value: Json) -> Object:
    if not isinstance(value, Mapping):
        raise ProtocolViolation("the API server's answer is not an object")
    return value


def _retry_after(header: str) -> float:
    return min(float(header), 10.0) if header.isdigit() else 0.0


Outcome: TypeAlias = Literal["retry", "conflict", "missing", "quota", "refused"]


def _classify(status: int, reason: str, message: str) -> Outcome:
    """What a refusal comes down to. A quota refusal is 403 like RBAC's: only its message tells them apart."""
    if status in _RETRIED:
        return "retry"
    if status == 404:
        return "missing"
    if status == 409:
        return "conflict"
    if status == 422 and ("testing path" in message or "test operation" in message):
        return "conflict"
    if status == 410 or reason == "Expired":
        return "conflict"
    if status == 403 and ("exceeded quota" in message or "status unknown for quota" in message):
        return "quota"
    return "refused"


def _error(status: int, body: bytes, what: str) -> Exception:
    try:
        answer = json.loads(body)
    except ValueError:
        answer = {}
    message = str(answer.get("message", ""))[:2000] if isinstance(answer, dict) else ""
    reason = str(answer.get("reason", "")) if isinstance(answer, dict) else ""
    said = f"{what}: {message or 'HTTP ' + str(status)}"
    match _classify(status, reason, message):
        case "retry":
            return ClusterUnavailable(said)
        case "conflict":
            return Conflict(said)
        case "missing":
            return ObjectNotFound(said)
        case "quota":
            return QuotaFull(said)
        case "refused":
            return RequestRefused(said, status=status)
