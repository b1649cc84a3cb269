"""The API as commands use it: JSON over HTTPS, a problem becomes the error that stands for the same exit code."""

from __future__ import annotations

import json
import secrets
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import datetime

from ringfence.contexts import Context
from ringfence.errors import Mistake, Refused, RingfenceError, Unavailable
from ringfence_audit.events import JsonValue
from ringfence_tools.calls import Access, CallKey, EscalationId, Family, RunId, Terms
from ringfence_tools.clock import micros
from ringfence_tools.escalations import Escalation, EscalationState

WITHIN_S = 30.0
LIMIT_BYTES = 64 << 20
Json = Mapping[str, JsonValue]


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object, **__: object) -> None:
        """A token is never carried elsewhere."""
        return


def ask(url: str, path: str, *, body: object = None, token: str = "", method: str = "") -> Json:
    """One request. Raises `Mistake`, `Refused` and `Unavailable` with what the server said."""
    headers = {"Accept": "application/json"}
    data = None
    if body is not None:
        data = json.dumps(body).encode()
        headers |= {"Content-Type": "application/json", "Idempotency-Key": secrets.token_urlsafe(16)}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    handlers = (_NoRedirects(), urllib.request.HTTPSHandler(context=ssl.create_default_context()))
    request = urllib.request.Request(f"{url}/api/v1{path}", data, headers, method=method or None)  # noqa: S310 checked at log-in
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=WITHIN_S) as answer:
            found: Json = json.loads(answer.read(LIMIT_BYTES))
            return found
    except urllib.error.HTTPError as error:
        raise _problem(error) from error
    except (OSError, ValueError) as error:
        raise Unavailable(f"{url} does not answer as a server of Ringfence", fix="Check the address") from error


def _problem(error: urllib.error.HTTPError) -> RingfenceError:
    try:
        said = json.loads(error.read(1 << 20))
        detail, fix = str(said["detail"]), str(said["fix"])
    except (ValueError, KeyError, TypeError):
        detail, fix = f"the server answered {error.code}", ""
    if error.code in (401, 403, 409, 429):
        return Refused(detail, fix=fix or ("Run `ringfence login`" if error.code == 401 else ""))
    return Unavailable(detail, fix=fix) if error.code >= 500 else Mistake(detail, fix=fix)


def waiting(context: Context, *, is_every: bool) -> list[Escalation]:
    """What waits, as `ringfence review list` shows it."""
    path = f"/inbox?scope={'all' if is_every else 'mine'}&limit=200"
    found: list[Escalation] = []
    after: JsonValue = ""
    while after is not None:
        answer = _ask(context, f"{path}&after={after}" if after else path)
        items, after = answer["items"], answer["next"]
        assert isinstance(items, list)  # noqa: S101 what our own server answers
        found += [escalation_of(one) for one in items]
    return sorted(found, key=lambda one: one.expires_at)


def card(context: Context, number: EscalationId) -> Escalation:
    return escalation_of(_ask(context, f"/escalations/{number}")["escalation"])


def vote(context: Context, number: EscalationId, given: Json) -> Escalation:
    return escalation_of(_ask(context, f"/escalations/{number}/votes", given)["escalation"])


def escalation_of(value: JsonValue) -> Escalation:
    """The escalation that the server describes, as the local store would give it."""
    assert isinstance(value, Mapping)  # noqa: S101 what our own server answers
    run, turn, index = str(value["call"]).split("/")
    raw = value["accesses"]
    accesses = raw if isinstance(raw, list) else []
    answer = value["answer"]

    def at(name: str) -> int:
        return micros(datetime.fromisoformat(str(value[name])))

    def words(name: str) -> tuple[str, ...]:
        held = value[name]
        return tuple(str(one) for one in held) if isinstance(held, list) else ()

    stored = value["card"]
    return Escalation(
        id=EscalationId(int(str(value["id"]))),
        key=CallKey(RunId(run), int(turn), int(index)),
        revision=0,
        kind=str(value["kind"]),
        state=EscalationState(str(value["state"])),
        digest=str(value["digest"]),
        matter="",
        policy_version="",
        requester=str(value["requester"]),
        tool=str(value["tool"]),
        arguments=str(value["arguments"]),
        accesses=tuple(Access(Family(str(one["family"])), str(one["resource"])) for one in accesses),
        terms=Terms(
            words("any_of"), words("all_of"), widest_grant="task" if value["widest_grant"] == "task" else "once"
        ),
        card=stored if isinstance(stored, Mapping) else {},
        width=None,
        answer=None if answer is None else str(answer),
        opened_at=at("opened_at"),
        expires_at=at("expires_at"),
        settled_at=None,
    )


def _ask(context: Context, path: str, body: object = None) -> Json:
    return ask(context.url, path, body=body, token=context.token.get_secret_value())
