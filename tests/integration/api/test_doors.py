"""Who gets in, from where, and what every answer carries."""

from __future__ import annotations

import pytest

from ringfence.api.house import Origin
from ringfence.errors import Mistake
from tests.integration.api.world import HARMLESS, ORIGIN, World


async def test_a_stranger_sees_nothing_but_the_log_in(world: World) -> None:
    stranger = world.stranger()
    for path in ("/inbox", f"/inbox/{HARMLESS}"):
        page = await stranger.get(path)
        assert (page.status_code, page.headers["location"]) == (303, f"/login?next={path}")
    for path in ("/api/v1/me", "/api/v1/inbox", f"/api/v1/escalations/{HARMLESS}"):
        answer = await stranger.get(path)
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == "not_logged_in"


async def test_a_wrong_token_is_refused_and_only_its_first_tries_are_entries(world: World) -> None:
    stranger = world.stranger()
    codes = []
    for _ in range(7):
        answer = await stranger.get("/api/v1/me", headers={"authorization": f"Bearer rf_{'a' * 12}_{'b' * 43}"})
        codes.append(answer.status_code)
    assert codes == [401] * 7
    assert 1 <= (await world.kinds()).count("person.login token.refused") < 7


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
        {"origin": "null"},
        {"sec-fetch-site": "same-site", "origin": ORIGIN.text},
        {"origin": "http://127.0.0.1:8601"},
        {},
    ],
)
async def test_no_other_site_can_act_with_a_browsers_cookie(world: World, headers: dict[str, str]) -> None:
    ben = await world.person("ben")
    for name in ("origin", "sec-fetch-site"):
        del ben.headers[name]
    card = await world.card(HARMLESS)
    for url, form in ((f"/inbox/{HARMLESS}/vote", {"verdict": "once", "digest": card.digest}), ("/logout", {})):
        answer = await ben.post(url, data=form, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "cross_site")


async def test_a_page_of_another_name_that_resolves_here_reaches_nothing(world: World) -> None:
    ben = await world.person("ben")
    answer = await ben.get("/api/v1/me", headers={"host": "rebound.example:8600"})
    assert (answer.status_code, answer.json()["code"]) == (421, "wrong_host")
    assert (await ben.get("/api/v1/me", headers={"host": "localhost:8600"})).status_code == 200


async def test_passwords_never_travel_in_the_clear() -> None:
    with pytest.raises(Mistake):
        Origin.parse("http://ringfence.example.org")
    with pytest.raises(Mistake):
        Origin.parse("https://ringfence.example.org/under/a/path")
    assert Origin.parse("https://ringfence.example.org").is_secure


async def test_a_log_in_leads_nowhere_else(world: World) -> None:
    for target in ("https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)"):
        page = await world.stranger().get("/login", params={"next": target})
        assert 'name="next" value="/"' in page.text


async def test_every_answer_carries_the_policy_that_lets_nothing_in(world: World) -> None:
    ben = await world.person("ben")
    for path in ("/inbox", "/api/v1/me", "/static/console.css", "/nowhere", "/login"):
        headers = (await ben.get(path)).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert "trusted-types 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


async def test_what_a_client_has_already_is_not_sent_again(world: World) -> None:
    ben = await world.person("ben")
    first = await ben.get(f"/api/v1/escalations/{HARMLESS}")
    again = await ben.get(f"/api/v1/escalations/{HARMLESS}", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    await ben.post(f"/api/v1/escalations/{HARMLESS}/votes", json={"verdict": "deny"})
    after = await ben.get(f"/api/v1/escalations/{HARMLESS}", headers={"if-none-match": first.headers["etag"]})
    assert after.status_code == 200
