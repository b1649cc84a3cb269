"""Log-in at a real small OpenID provider on loopback: what is refused, and whom it lets in with which roles."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
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
        header = {"alg": self.algorithm, "kid": "k1"}
        return {"id_token": jwt.encode(header, claims, self.signs_with or self.key), "token_type": "Bearer"}


@pytest.fixture
def provider() -> Iterator[SmallProvider]:
    small = SmallProvider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/.well-known/openid-configuration":
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


@pytest.fixture
async def world(seeded: Path, tmp_path: Path, provider: SmallProvider) -> AsyncIterator[World]:
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
        joined = Provider(settings, HttpsWeb(), redirect_uri=f"{ORIGIN.text}/login/callback")
        house = replace(house_at(folder, store), provider=joined)
        yield World(store, house, httpx.ASGITransport(create_app(house), raise_app_exceptions=False))


async def begin(world: World) -> tuple[httpx.AsyncClient, str]:
    browser = world.stranger()
    sent = await browser.get("/login/provider?next=/board")
    assert sent.status_code == 303
    return browser, sent.headers["location"]


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
