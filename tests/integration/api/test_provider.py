"""Log-in at a real small OpenID provider on loopback: what is refused, and whom it lets in with which roles."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from ringfence.api.app import create_app
from ringfence.auth.provider import GroupRule, Provider, ProviderSettings
from ringfence.auth.provider_web import HttpsWeb
from ringfence.auth.published import AGAIN_S, KEPT_S
from ringfence.auth.refusals import MOST, WITHIN_S, Refusals
from ringfence_audit.query import Filter, PageRequest, query
from ringfence_audit.query import count as count_entries
from tests.integration.api.world import ORIGIN, World, copied, house_at, store_at


@dataclass
class SmallProvider:
    """`claims` are added to what it signs; `signs_with` is the key that it really uses."""

    key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "k1"}))
    signs_with: RSAKey | None = None
    claims: dict[str, object] = field(default_factory=dict)
    algorithm: str = "RS256"
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    url: str = ""
    asked: list[str] = field(default_factory=list)
    is_broken: bool = False

    def allow(self, address: str) -> str:
        """What the provider's log-in page does: the address that the browser is sent back to."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
        code = hashlib.sha256(asked["state"].encode()).hexdigest()
        self.codes[code] = asked
        back = urlsplit(asked["redirect_uri"])
        return f"{back.path}?code={code}&state={asked['state']}"

    def exchange(self, form: dict[str, str]) -> dict[str, str] | None:
        asked = self.codes.pop(form.get("code", ""), None)
        if asked is None:
            return None
        challenge = urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=").decode()
        if challenge != asked["code_challenge"] or asked["code_challenge_method"] != "S256":
            return None
        now = int(time.time())
        claims = {
            "iss": self.url, "aud": asked["client_id"], "sub": "u-1", "iat": now, "exp": now + 300,
            "nonce": asked["nonce"], "preferred_username": "Nora.Berg@example.org", "name": "Nora Berg",
            "groups": ["developers", "leads", "unmapped"], **self.claims,
        }  # fmt: skip
        header = {"alg": self.algorithm, "kid": self.key.kid}
        return {"id_token": jwt.encode(header, claims, self.signs_with or self.key), "token_type": "Bearer"}


@pytest.fixture
def provider() -> Iterator[SmallProvider]:
    small = SmallProvider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            small.asked.append(self.path)
            if small.is_broken:
                self._answer({"error": "out of order"}, 500)
            elif self.path == "/.well-known/openid-configuration":
                names = ("authorization_endpoint", "token_endpoint", "jwks_uri")
                self._answer({"issuer": small.url, **{name: f"{small.url}/{name}" for name in names}})
            else:
                self._answer({"keys": [small.key.as_dict(private=False)]})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            found = small.exchange({name: values[0] for name, values in parse_qs(body).items()})
            self._answer(found or {"error": "invalid_grant"}, 200 if found else 400)

        def _answer(self, value: object, status: int = 200) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(value).encode())

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    small.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield small
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class Watch:
    """The clocks that the log-in goes by, moved by the test."""

    now: datetime = field(default_factory=lambda: datetime(2026, 3, 1, tzinfo=UTC))
    ticks: float = 1000.0


@pytest.fixture
def watch() -> Watch:
    return Watch()


async def entries(world: World) -> int:
    return await world.store.read(count_entries)


@pytest.fixture
async def world(seeded: Path, tmp_path: Path, provider: SmallProvider, watch: Watch) -> AsyncIterator[World]:
    settings = ProviderSettings(
        issuer=provider.url,
        client_id="ringfence",
        map={
            "developers": GroupRule(roles=["billing:member", "gone:admin"]),
            "leads": GroupRule(roles=["billing:reviewer"], groups=["billing:team-lead"]),
        },
    )
    folder = copied(seeded, tmp_path / "home")
    with store_at(folder) as store:
        refusals = Refusals(lambda: watch.now)
        joined = Provider(
            settings,
            HttpsWeb(),
            redirect_uri=f"{ORIGIN.text}/login/callback",
            refusals=refusals,
            ticks=lambda: watch.ticks,
        )
        house = replace(house_at(folder, store), provider=joined, refusals=refusals)
        yield World(store, house, httpx.ASGITransport(create_app(house), raise_app_exceptions=False))


async def begin(world: World) -> tuple[httpx.AsyncClient, str]:
    browser = world.stranger()
    sent = await browser.get("/login/provider?next=/board")
    assert sent.status_code == 303
    return browser, sent.headers["location"]


async def test_strangers_at_the_callback_cannot_fill_the_log(world: World, watch: Watch) -> None:
    """So many refusals an interval are entries; the others are counted, and the count is one entry."""
    before = await entries(world)
    stranger = world.stranger()
    for n in range(MOST + 40):
        path = f"/login/callback?code=x&state=made-up-{n}" if n % 2 else "/login/callback?error=access_denied"
        assert (await stranger.get(path)).status_code == 401
    assert await entries(world) == before + MOST
    watch.now += timedelta(seconds=WITHIN_S)
    assert (await stranger.get("/login/callback?code=x&state=one-more")).status_code == 401
    page = await world.store.read(lambda c: query(c, Filter(), PageRequest(2)))
    newest, count = page.entries
    assert newest.data["what"] == "login.refused"
    assert (count.data["what"], count.data["count"]) == ("login.refused_more", 40)


async def test_what_was_counted_is_told_when_nobody_comes_any_more(world: World, watch: Watch) -> None:
    stranger = world.stranger()
    for n in range(MOST + 3):
        await stranger.get(f"/login/callback?code=x&state={n}")
    before = await entries(world)
    await world.house.refusals.tell(world.store)
    assert await entries(world) == before, "the interval is not over"
    watch.now += timedelta(seconds=WITHIN_S)
    await world.house.refusals.tell(world.store)
    await world.house.refusals.tell(world.store)
    page = await world.store.read(lambda c: query(c, Filter(), PageRequest(1)))
    assert page.entries[0].data["count"] == 3
    assert await entries(world) == before + 1


async def test_strangers_who_begin_log_ins_cause_no_request_each(world: World, provider: SmallProvider) -> None:
    for _ in range(20):
        await begin(world)
    assert provider.asked == ["/.well-known/openid-configuration"]


async def test_a_provider_that_fails_is_not_asked_again_for_each_stranger(
    world: World, provider: SmallProvider, watch: Watch
) -> None:
    provider.is_broken = True
    for _ in range(5):
        assert (await world.stranger().get("/login/provider")).status_code in (401, 503)
    assert len(provider.asked) == 1
    provider.is_broken = False
    watch.ticks += AGAIN_S
    await begin(world)
    assert len(provider.asked) == 2


async def test_log_ins_that_were_begun_and_never_ended_are_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ringfence.auth.provider.MOST_PENDING", 3)
    for _ in range(3):
        await begin(world)
    assert (await world.stranger().get("/login/provider")).status_code == 429


async def test_what_the_provider_publishes_is_read_again_after_its_time(
    world: World, provider: SmallProvider, watch: Watch
) -> None:
    await begin(world)
    watch.ticks += KEPT_S
    await begin(world)
    assert len(provider.asked) == 2


async def test_a_provider_that_changed_its_keys_is_believed_at_once(
    world: World, provider: SmallProvider, watch: Watch
) -> None:
    browser, address = await begin(world)
    assert (await browser.get(provider.allow(address))).status_code == 303
    provider.key = RSAKey.generate_key(2048, {"kid": "k2"})
    watch.ticks += AGAIN_S
    browser, address = await begin(world)
    assert (await browser.get(provider.allow(address))).status_code == 303
    assert provider.asked.count("/jwks_uri") == 2


async def test_an_answer_that_another_browser_brings_is_refused(world: World, provider: SmallProvider) -> None:
    _, address = await begin(world)
    victim = world.stranger()
    await victim.get("/login/provider")
    answer = await victim.get(provider.allow(address))
    assert answer.status_code == 401
    assert world.house.session_cookie not in answer.cookies


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "another"},
        {"aud": "another-client"},
        {"iss": "https://evil.example"},
        {"exp": 1},
        {"aud": ["ringfence", "another"], "azp": "another"},
        {"preferred_username": "\u0430na", "sub": ""},
    ],
)
async def test_a_token_that_is_not_for_this_log_in_is_refused(
    world: World, provider: SmallProvider, claims: dict[str, object]
) -> None:
    provider.claims = claims
    browser, address = await begin(world)
    assert (await browser.get(provider.allow(address))).status_code == 401
    assert (await world.kinds())[0] == "person.login login.refused"


async def test_a_signature_by_another_key_is_refused(world: World, provider: SmallProvider) -> None:
    provider.signs_with = RSAKey.generate_key(2048, {"kid": "k1"})
    browser, address = await begin(world)
    assert (await browser.get(provider.allow(address))).status_code == 401


async def test_an_answer_is_good_once(world: World, provider: SmallProvider) -> None:
    browser, address = await begin(world)
    back = provider.allow(address)
    assert (await browser.get(back)).status_code == 303
    browser.cookies.delete(world.house.session_cookie)
    assert (await browser.get(back)).status_code == 401


async def test_a_local_account_is_never_taken_over(world: World, provider: SmallProvider) -> None:
    provider.claims = {"preferred_username": "eve"}
    browser, address = await begin(world)
    answer = await browser.get(provider.allow(address))
    assert answer.status_code == 401
    assert "taken" in answer.text


async def test_who_the_provider_vouches_for_gets_the_mapped_places_anew_at_each_log_in(
    world: World, provider: SmallProvider
) -> None:
    browser, address = await begin(world)
    done = await browser.get(provider.allow(address))
    assert (done.status_code, done.headers["location"]) == (303, "/board")
    me = (await browser.get("/api/v1/me")).json()
    assert me["name"] == "nora.berg"
    assert [(one["team"], one["role"]) for one in me["roles"]] == [("billing", "member"), ("billing", "reviewer")]
    assert me["groups"] == [{"team": "billing", "name": "team-lead"}]
    provider.claims = {"groups": ["developers"]}
    again, address = await begin(world)
    await again.get(provider.allow(address))
    me = (await again.get("/api/v1/me")).json()
    assert [(one["team"], one["role"]) for one in me["roles"]] == [("billing", "member")]
    assert me["groups"] == []
