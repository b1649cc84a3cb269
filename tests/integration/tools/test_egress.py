"""Who may leave a sandbox: refused unless policy or a live grant says so, and never without an entry."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from ringfence_audit import tables
from ringfence_audit.errors import LogUnavailable
from ringfence_audit.store import SqlStore
from ringfence_sandbox.contract import EgressRequest, SandboxId
from ringfence_sandbox.egress.errors import Code, Refused
from ringfence_tools import grants
from ringfence_tools.calls import Access, Effect, EscalationId, Family, GrantId, RunId
from ringfence_tools.clock import micros
from ringfence_tools.egress import REPEAT_S, RunEgress, is_listed
from ringfence_tools.policy import Policy
from ringfence_tools.profile import parse_profile
from ringfence_tools.profile_model import Credential, Network
from ringfence_tools.profile_words import explain
from tests.fakes.policy import FakePolicy
from tests.integration.tools.conftest import Clock

RUN = RunId("run-1")
REQUEST = EgressRequest(SandboxId("rf-run-1"), "c1", "index.example", 443, "CONNECT")
ASKS = FakePolicy({"index.example:443": Effect.ESCALATE})


def egress(store: SqlStore, policy: FakePolicy, *, network: Network | None = None, clock: Clock) -> RunEgress:
    return RunEgress(
        store=store,
        policy=policy,
        network=network or Network(),
        run=RUN,
        on_behalf_of="ana",
        secret={"env:INDEX_TOKEN": "t0p-secret"}.get,
        monotonic=lambda: clock.now.timestamp(),
    )


async def entries(store: SqlStore) -> list[dict[str, object]]:
    query = tables.entries.select().order_by(tables.entries.c.position)
    rows = await store.read(lambda connection: connection.execute(query).all())
    return [orjson.loads(row.entry)["event"] for row in rows]


async def grant(store: SqlStore, clock: Clock, *, uses: int | None = None) -> GrantId:
    return await store.write(
        lambda tx: grants.give(
            tx,
            run=RUN,
            call="",
            tool="request_access",
            accesses=(Access(Family.NETWORK, "index.example:443", {"method": "CONNECT"}),),
            width="task",
            uses=uses,
            expires_at=micros(clock.now) + 60_000_000,
            given_by="person:ana",
            escalation=EscalationId(1),
        )
    )


async def test_an_unlisted_host_is_refused_with_a_way_to_ask(store: SqlStore, clock: Clock) -> None:
    verdict = await egress(store, ASKS, clock=clock).admit(REQUEST)
    assert not verdict.is_allowed
    assert "request_access" in verdict.instead
    assert "index.example:443" in verdict.instead
    assert [event["kind"] for event in await entries(store)] == ["egress.refused"]


async def test_a_flood_of_refusals_does_not_flood_the_log(store: SqlStore, clock: Clock) -> None:
    keeper = egress(store, ASKS, clock=clock)
    for _ in range(50):
        assert not (await keeper.admit(REQUEST)).is_allowed
    clock.pass_time(REPEAT_S + 1)
    await keeper.admit(REQUEST)
    first, second = await entries(store)
    assert (first["data"]["repeats_before"], second["data"]["repeats_before"]) == (0, 49)  # type: ignore[index]


async def test_a_forbidden_host_is_refused_although_granted(store: SqlStore, clock: Clock) -> None:
    await grant(store, clock)
    policy = FakePolicy({"index.example:443": Effect.FORBID})
    assert not (await egress(store, policy, clock=clock).admit(REQUEST)).is_allowed


async def test_a_grant_opens_until_it_expires_or_is_revoked(store: SqlStore, clock: Clock) -> None:
    keeper = egress(store, ASKS, clock=clock)
    given = await grant(store, clock)
    assert (await keeper.admit(REQUEST)).is_allowed
    await store.write(lambda tx: grants.revoke(tx, given, by="person:ana"))
    assert not (await keeper.admit(REQUEST)).is_allowed
    await grant(store, clock)
    clock.pass_time(61)
    assert not (await keeper.admit(REQUEST)).is_allowed


async def test_a_grant_for_one_use_opens_once(store: SqlStore, clock: Clock) -> None:
    keeper = egress(store, ASKS, clock=clock)
    await grant(store, clock, uses=1)
    assert [(await keeper.admit(REQUEST)).is_allowed for _ in range(2)] == [True, False]


async def test_without_the_log_the_answer_is_an_error_not_a_yes(store: SqlStore, clock: Clock) -> None:
    keeper = egress(store, FakePolicy(), clock=clock)
    store.close()
    with pytest.raises(LogUnavailable):
        await keeper.admit(REQUEST)


async def test_a_credential_is_added_only_to_an_opened_request_and_never_logged(store: SqlStore, clock: Clock) -> None:
    credential = Credential.model_validate({"host": "index.example", "from": "env:INDEX_TOKEN"})
    keeper = egress(store, FakePolicy(), network=Network(credentials=(credential,)), clock=clock)
    tunnel = await keeper.admit(REQUEST)
    assert (tunnel.ends_tls, dict(tunnel.headers)) == (True, {})
    inner = await keeper.admit(replace(REQUEST, method="GET", path="/simple/"))
    assert dict(inner.headers) == {"Authorization": "t0p-secret"}
    assert "t0p-secret" not in str(await entries(store))


@pytest.mark.parametrize(
    ("form", "value"),
    [
        ({"template": "Bearer {}"}, "Bearer t0p-secret"),
        ({"basic": "x-access-token"}, "Basic eC1hY2Nlc3MtdG9rZW46dDBwLXNlY3JldA=="),
    ],
)
async def test_a_credential_is_sent_in_the_form_that_the_profile_writes(
    store: SqlStore, clock: Clock, form: dict[str, str], value: str
) -> None:
    credential = Credential.model_validate({"host": "index.example", "from": "env:INDEX_TOKEN", **form})
    keeper = egress(store, FakePolicy(), network=Network(credentials=(credential,)), clock=clock)
    assert dict((await keeper.admit(replace(REQUEST, method="GET"))).headers) == {"Authorization": value}


async def test_plain_http_is_refused_although_granted_unless_the_profile_names_the_host(
    store: SqlStore, clock: Clock
) -> None:
    await grant(store, clock)
    plain = replace(REQUEST, method="GET", is_plain=True)
    verdict = await egress(store, ASKS, clock=clock).admit(plain)
    assert (verdict.is_allowed, verdict.rule) == (False, "plain-http")
    assert "https" in verdict.instead
    assert "request_access" not in verdict.instead
    for named, is_open in (
        (Network(plain=("index.example",)), True),
        (Network(allow=("index.example:80",)), True),
        (Network(allow=("index.example",)), False),
    ):
        at_port = replace(plain, port=80)
        keeper = egress(store, FakePolicy(), network=named, clock=clock)
        assert (await keeper.admit(at_port)).is_allowed is is_open


async def test_a_handshake_that_the_proxy_ends_uses_no_grant_up(store: SqlStore, clock: Clock) -> None:
    keeper = egress(store, ASKS, network=Network(opened=("index.example",)), clock=clock)
    await grant(store, clock, uses=1)
    shaken = await keeper.admit(REQUEST)
    assert (shaken.is_allowed, shaken.ends_tls) == (True, True)
    inside = replace(REQUEST, id="c2", method="GET", path="/a")
    assert [(await keeper.admit(inside)).is_allowed for _ in range(2)] == [True, False]
    assert await keeper.stands([REQUEST]) == {REQUEST.id}


async def test_a_host_that_is_forbidden_whole_is_refused_at_its_handshake(store: SqlStore, clock: Clock) -> None:
    policy = FakePolicy({"index.example:443": Effect.FORBID})
    keeper = egress(store, policy, network=Network(opened=("index.example",)), clock=clock)
    assert not (await keeper.admit(REQUEST)).is_allowed
    assert await keeper.stands([REQUEST]) == frozenset()


SHARED = """\
apiVersion: ringfence.dev/v1
kind: Profile
metadata: {name: shared, owner: platform, version: 1}
unmatched: forbid
network: {opened: [forge.example]}
rules:
  - {id: own, allow: [network], hosts: [forge.example], methods: [GET, POST], paths: ["/acme/app.git/**"]}
  - {id: admin, forbid: [network], hosts: [forge.example], paths: ["/acme/app.git/admin"]}
"""


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/acme/app.git/info/refs", True),
        ("POST", "/acme/app.git/git-upload-pack", True),
        ("DELETE", "/acme/app.git/info/refs", False),
        ("GET", "/other/app.git/info/refs", False),
        ("GET", "/acme/app.gitx", False),
        ("GET", "/acme/app.git/%61dmin", False),
        ("GET", "/acme/app.git//admin", False),
    ],
)
async def test_a_host_that_many_share_is_limited_by_method_and_path(
    store: SqlStore, clock: Clock, method: str, path: str, expected: bool
) -> None:
    profile = parse_profile(SHARED.encode(), "shared.yaml")
    keeper = RunEgress(store, Policy.compile(profile), profile.network, RUN, "ana", lambda _: None)
    connect = EgressRequest(SandboxId("rf-run-1"), "c1", "forge.example", 443, "CONNECT")
    assert (await keeper.admit(connect)).ends_tls
    assert (await keeper.admit(replace(connect, method=method, path=path))).is_allowed is expected


def test_what_is_open_and_unread_is_said_so() -> None:
    text = SHARED.replace(
        "{opened: [forge.example]}", "{allow: [bucket.example, read.example], opened: [read.example]}"
    )
    said = explain(parse_profile(text.encode(), "shared.yaml"))
    assert "bucket.example (unopened: may send anything to anyone there)" in said
    assert "read.example (unopened" not in said


async def test_what_the_proxy_refuses_by_itself_becomes_an_entry_once(store: SqlStore, clock: Clock) -> None:
    keeper = egress(store, FakePolicy(), clock=clock)
    refused = Refused(REQUEST.sandbox, Code.ADDRESS_REFUSED, "leads to a metadata address", "address:metadata", REQUEST)
    for _ in range(30):
        await keeper.refused(refused)
    await keeper.refused(replace(refused, code=Code.HOST_REFUSED))
    (event,) = await entries(store)
    assert (event["kind"], event["data"]["rule"]) == ("egress.refused", "address:metadata")  # type: ignore[index]


async def test_a_credential_that_is_not_set_refuses(store: SqlStore, clock: Clock) -> None:
    credential = Credential.model_validate({"host": "index.example", "from": "env:MISSING"})
    keeper = egress(store, FakePolicy(), network=Network(credentials=(credential,)), clock=clock)
    assert not (await keeper.admit(replace(REQUEST, method="GET"))).is_allowed


@pytest.mark.parametrize(
    ("pattern", "host", "port", "expected"),
    [
        ("index.example", "index.example", 443, True),
        ("index.example:8443", "index.example", 443, False),
        ("*.example", "a.b.example", 443, True),
        ("*.example", "example", 443, False),
        ("*.example", "notexample", 443, False),
        ("*", "anything.example", 1, True),
        ("[2001:db8::1]:443", "2001:db8::1", 443, True),
        ("[2001:db8::1]", "2001:db8::1", 80, True),
    ],
)
def test_patterns_name_whole_labels(pattern: str, host: str, port: int, expected: bool) -> None:
    assert is_listed((pattern,), host, port) is expected


async def test_a_tunnel_ends_with_its_grant_and_not_with_its_last_use(store: SqlStore, clock: Clock) -> None:
    keeper = egress(store, ASKS, clock=clock)
    given = await grant(store, clock, uses=1)
    assert (await keeper.admit(REQUEST)).is_allowed
    assert await keeper.stands([REQUEST]) == {REQUEST.id}
    await store.write(lambda tx: grants.revoke(tx, given, by="person:ana"))
    assert await keeper.stands([REQUEST]) == frozenset()


async def test_what_was_approved_for_one_call_opens_its_tunnel_while_it_acts(store: SqlStore, clock: Clock) -> None:
    approved = Access(
        Family.NETWORK, "index.example:443", {"method": "GET", "url": "https://index.example/", "sends": False}
    )
    await store.write(
        lambda tx: grants.give(
            tx,
            run=RUN,
            call="run-1/4/0",
            tool="shell",
            accesses=(approved,),
            width="once",
            uses=None,
            expires_at=micros(clock.now) + 60_000_000,
            given_by="system:gate",
            escalation=EscalationId(2),
        )
    )
    assert (await egress(store, ASKS, clock=clock).admit(REQUEST)).is_allowed
