"""The console's pages put together: routes, static files, and errors as pages."""

from __future__ import annotations

from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from ringfence.api import problems
from ringfence.console import (
    audit_pages,
    board_pages,
    inbox_pages,
    login_pages,
    people_pages,
    platform_pages,
    profile_pages,
)
from ringfence.console.views import STATIC, Views
from ringfence.console.visiting import SEE_LOGIN, views_of

_ROUTERS = (
    login_pages.router,
    inbox_pages.router,
    board_pages.router,
    audit_pages.router,
    profile_pages.router,
    platform_pages.router,
    people_pages.router,
)


def install(app: FastAPI) -> None:
    app.state.views = Views()
    for router in _ROUTERS:
        app.include_router(router, include_in_schema=False)
    app.mount("/static", _Static(directory=STATIC), name="static")


async def error_page(request: Request, problem: problems.Problem) -> Response:
    """A problem as a page; who is not logged in is sent to the log-in, and back afterwards."""
    if problem.status == 401 and request.method == "GET":
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"{SEE_LOGIN}?next={quote(target, safe='/')}", 303)
    return views_of(request).page(request, "problem.html", {"problem": problem}, identity=None, status=problem.status)


class _Static(StaticFiles):
    """Files whose address carries their version may be kept for ever."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        is_versioned = b"v=" in scope.get("query_string", b"")
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if is_versioned else "no-cache"
        return response
