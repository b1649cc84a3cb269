"""The application: API under /api/v1, console beside it, one guard around both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version
from typing import TypeAlias

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.middleware.gzip import GZipMiddleware

from ringfence.api import problems
from ringfence.api.etags import ETags
from ringfence.api.guarding import Guard
from ringfence.api.house import House
from ringfence.api.routes import cards, log, me, metrics, operate, people, profiles, runs, system
from ringfence.console import pages

API = "/api/v1"
Lifespan: TypeAlias = Callable[[FastAPI], AbstractAsyncContextManager[None]]
_ROUTERS = (
    me.router,
    runs.router,
    cards.router,
    profiles.router,
    log.router,
    people.router,
    operate.router,
)


@asynccontextmanager
async def _nothing(_: FastAPI) -> AsyncIterator[None]:
    yield


def create_app(house: House, *, lifespan: Lifespan = _nothing) -> FastAPI:
    """Serves one house. `lifespan` runs what lives beside the requests (`serving.living`)."""
    app = FastAPI(
        title="Ringfence",
        version=version("ringfence"),
        summary="Runs AI developers that cannot break things.",
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
    )
    app.state.house = house
    api = APIRouter(prefix=API)
    for router in _ROUTERS:
        api.include_router(router)
    app.include_router(api)
    app.include_router(system.router)
    app.include_router(metrics.router)
    pages.install(app)
    problems.install(app, pages.error_page)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]  # FastAPI's documented way to extend it
    app.add_middleware(ETags)
    app.add_middleware(GZipMiddleware, minimum_size=700, compresslevel=5)
    app.add_middleware(Guard, house=house)
    return app


def _operation_id(route: object) -> str:
    return str(getattr(route, "name", "operation"))


def _document(app: FastAPI) -> dict[str, object]:
    """OpenAPI 3.1 with the ways to authenticate and the form of a problem."""
    if app.openapi_schema is None:
        found = get_openapi(
            title=app.title, version=app.version, openapi_version="3.1.0", summary=app.summary, routes=app.routes
        )
        parts = found.setdefault("components", {})
        parts.setdefault("schemas", {})["Problem"] = problems.Problem.model_json_schema()
        parts["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "rf_…"}}
        for path, operations in found["paths"].items():
            if path.startswith(API) and not path.endswith("/login"):
                for operation in operations.values():
                    operation["security"] = [{"token": []}]
        app.openapi_schema = found
    return app.openapi_schema
