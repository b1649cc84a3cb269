"""Every error that leaves the API: problem details (RFC 9457) with a stable code and what to do.

`code` is a promise to scripts, as exit codes are at the command line. A person who may not know of a thing gets the
same 404 as for one that does not exist.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ringfence.auth import errors as auth
from ringfence.errors import Mistake, Refused, RingfenceError, Unavailable
from ringfence.escaping import visible
from ringfence.voting import FindingsUnread, NotWhatWasShown
from ringfence_agents.errors import AgentsError, ModelUnavailable, RunEnded, RunHeld, RunNotFound, StepNotKept
from ringfence_audit.errors import AuditError, EntryNotFound, LogUnavailable
from ringfence_sandbox.errors import IsolationUnavailable, SandboxError, WorkspaceRefused
from ringfence_tools.errors import (
    EscalationClosed,
    NotAllowedToVote,
    NotFound,
    PolicyError,
    ProfileInvalid,
    ProfileTestsFailed,
    ToolsError,
    VersionTaken,
)

MEDIA_TYPE: Final = "application/problem+json"
_LOG = logging.getLogger("ringfence.api")


class Unseen(RingfenceError):
    """There is no such thing, or none that the caller may know of."""

    def __init__(self, what: str = "thing") -> None:
        super().__init__(
            f"there is no such {what} that you may see", fix="Check its name, or ask for a role in its team"
        )


class NotLoggedIn(auth.AuthError):
    """The request says not who it comes from."""

    def __init__(self, message: str = "log in first") -> None:
        super().__init__(message, fix="Log in, or send a token: Authorization: Bearer rf_…")


class KeyReused(Refused):
    """An idempotency key came again with another request."""


class Problem(BaseModel):
    """RFC 9457."""

    model_config = ConfigDict(extra="forbid")
    type: str = Field(description="A URN that ends in the code", examples=["urn:ringfence:problem:not_found"])
    title: str
    status: int
    code: str = Field(description="Stable: scripts may rely on it")
    detail: str = Field(description="What failed, and on which id")
    fix: str = Field(default="", description="What to do about it")
    errors: list[str] = Field(
        default_factory=list, description="Each field that cannot be used, and why; each problem of a profile"
    )


_KNOWN: tuple[tuple[type[Exception], int, str], ...] = (
    (NotLoggedIn, 401, "not_logged_in"),
    (auth.TooManyTries, 429, "too_many_tries"),
    (auth.LoginRefused, 401, "login_refused"),
    (auth.Denied, 403, "denied"),
    (auth.LinkInvalid, 409, "link_invalid"),
    (auth.PasswordWeak, 409, "password_weak"),
    (auth.PersonUnknown, 404, "not_found"),
    (auth.PersonExists, 409, "exists"),
    (Unseen, 404, "not_found"),
    (FindingsUnread, 409, "findings_unread"),
    (NotWhatWasShown, 409, "not_what_was_shown"),
    (KeyReused, 409, "idempotency_key_reused"),
    (RunNotFound, 404, "not_found"),
    (NotFound, 404, "not_found"),
    (EntryNotFound, 404, "not_found"),
    (NotAllowedToVote, 403, "vote_not_allowed"),
    (EscalationClosed, 409, "escalation_closed"),
    (RunEnded, 409, "run_ended"),
    (RunHeld, 409, "run_held"),
    (StepNotKept, 409, "step_not_kept"),
    (ProfileTestsFailed, 409, "profile_tests_failed"),
    (VersionTaken, 409, "version_taken"),
    (ProfileInvalid, 409, "profile_invalid"),
    (PolicyError, 409, "policy_invalid"),
    (WorkspaceRefused, 409, "repository_refused"),
    (Mistake, 409, "mistake"),
    (Refused, 409, "refused"),
    (LogUnavailable, 503, "log_unavailable"),
    (ModelUnavailable, 503, "model_unavailable"),
    (IsolationUnavailable, 503, "isolation_unavailable"),
    (Unavailable, 503, "unavailable"),
    (auth.AuthError, 409, "refused"),
)
DOMAIN = (RingfenceError, AgentsError, AuditError, SandboxError, ToolsError)


def problem_of(error: Exception) -> Problem:
    """The problem that an error of any room stands for; what nobody foresaw says nothing of its inside."""
    for kind, status, code in _KNOWN:
        if isinstance(error, kind):
            said, fix = (error.message, error.fix) if isinstance(error, RingfenceError) else (str(error), "")
            places = [visible(one)[:300] for one in error.problems[:20]] if isinstance(error, ProfileInvalid) else []
            return problem(status, code, said, fix=fix, errors=places)
    return problem(500, "failed", "Ringfence failed; nothing more was done", fix="Try again; tell an admin if it stays")


def problem(status: int, code: str, detail: str, *, fix: str = "", errors: list[str] | None = None) -> Problem:
    return Problem(
        type=f"urn:ringfence:problem:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        code=code,
        detail=visible(detail)[:2000],
        fix=visible(fix)[:500],
        errors=errors or [],
    )


def response_of(found: Problem, headers: Mapping[str, str] | None = None) -> JSONResponse:
    sent = dict(headers or {})
    if found.status == HTTPStatus.UNAUTHORIZED:
        sent["WWW-Authenticate"] = 'Bearer realm="ringfence"'
    return JSONResponse(found.model_dump(), found.status, headers=sent, media_type=MEDIA_TYPE)


def headers_of(error: Exception) -> dict[str, str]:
    return {"Retry-After": str(error.retry_after_s)} if isinstance(error, auth.TooManyTries) else {}


def validation_problem(error: RequestValidationError) -> Problem:
    said = []
    for one in error.errors()[:20]:
        place = ".".join(str(part) for part in one["loc"][:8])
        said.append(visible(f"{place}: {one['msg']}")[:300])
    return problem(422, "invalid_request", "the request does not have the form that is asked for",
                   fix="Compare it with /openapi.json", errors=said)  # fmt: skip


Page = Callable[[Request, Problem], Awaitable[Response]]


def install(app: FastAPI, page: Page) -> None:
    """Every error of the API becomes a problem, and of the console a page that says the same."""

    async def told(request: Request, found: Problem, headers: Mapping[str, str] | None = None) -> Response:
        if request.url.path.startswith(("/api/", "/openapi.json", "/healthz", "/readyz", "/metrics")):
            return response_of(found, headers)
        return await page(request, found)

    async def domain(request: Request, error: Exception) -> Response:
        found = problem_of(error)
        if found.status == HTTPStatus.INTERNAL_SERVER_ERROR:
            _LOG.error("a request failed", exc_info=error)
        return await told(request, found, headers_of(error))

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101 what it is registered for
        return await told(request, validation_problem(error))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 what it is registered for
        code = {400: "unreadable", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}.get(
            error.status_code, "refused"
        )
        return await told(request, problem(error.status_code, code, str(error.detail)), error.headers)

    for kind in DOMAIN:
        app.add_exception_handler(kind, domain)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, domain)


def documented(*statuses: int) -> dict[int | str, dict[str, object]]:
    """The problems that a route may answer with, for its OpenAPI entry."""
    shown = {"schema": {"$ref": "#/components/schemas/Problem"}}
    found: dict[int | str, dict[str, object]] = {}
    for status in sorted({400, 401, 422, 429, 503, *statuses}):
        found[status] = {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: shown}}
    return found
