"""Log-in, one-time links, log-out, theme."""

from __future__ import annotations

from typing import Annotated

import segno
from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from markupsafe import Markup
from starlette.responses import Response

from ringfence.api.access import HouseHere, address_of, house_of, session_identity
from ringfence.api.house import House
from ringfence.api.problems import Unseen
from ringfence.auth import people, sessions
from ringfence.auth.errors import LoginRefused, PasswordWeak, TooManyTries
from ringfence.auth.passwords import seed_uri
from ringfence.console.views import THEMES
from ringfence.console.visiting import SEE_LOGIN, Visitor, local_path, see, views_of
from ringfence.errors import Unavailable

router = APIRouter()
ISSUER = "Ringfence"
Text = Annotated[str, Form(max_length=2000)]


@router.get("/")
async def front(visitor: Visitor) -> RedirectResponse:
    return see("/inbox" if visitor.memberships else "/me")


@router.get(SEE_LOGIN)
async def login_form(request: Request, house: HouseHere, next: str = "/") -> Response:
    if await session_identity(request, house) is not None:
        return see(local_path(next))
    return _login_page(request, next=local_path(next))


@router.post(SEE_LOGIN)
async def log_in(
    request: Request,
    house: HouseHere,
    name: Text = "",
    password: Text = "",
    code: Text = "",
    next: Text = "/",
) -> Response:
    try:
        address = address_of(request)
        secret = await sessions.log_in(
            house.store, house.seal, name, password, code, address=address, refusals=house.refusals
        )
    except LoginRefused as error:
        status = 429 if isinstance(error, TooManyTries) else 401
        return _login_page(request, next=local_path(next), name=name, error=str(error), status=status)
    return _with_session(house, see(local_path(next)), secret)


@router.get("/login/provider")
async def to_provider(request: Request, house: HouseHere, next: str = "/") -> Response:
    if house.provider is None:
        raise Unseen("page")
    try:
        started = await house.provider.start(house.store, next_path=local_path(next))
    except LoginRefused as refused:
        status = 429 if isinstance(refused, TooManyTries) else 401
        return _login_page(request, next=local_path(next), error=str(refused), status=status)
    except OSError as error:
        raise Unavailable("the log-in provider does not answer", fix="Try again in a moment") from error
    response = RedirectResponse(started.url, 303)
    _keep(house, response, _provider_cookie(house), started.browser, max_age=600)
    return response


@router.get("/login/callback")
async def from_provider(
    request: Request, house: HouseHere, code: str = "", state: str = "", error: str = ""
) -> Response:
    if house.provider is None:
        raise Unseen("page")
    browser = request.cookies.get(_provider_cookie(house), "")
    try:
        done = await house.provider.finish(
            house.store, state=state, code="" if error else code, browser=browser, address=address_of(request)
        )
    except LoginRefused as refused:
        return _login_page(request, next="/", error=str(refused), status=401)
    except OSError as unreachable:
        raise Unavailable("the log-in provider does not answer", fix="Try again in a moment") from unreachable
    response = _with_session(house, see(local_path(done.next)), done.session)
    response.delete_cookie(_provider_cookie(house), path="/", secure=house.origin.is_secure, httponly=True)
    return response


@router.post("/logout")
async def log_out(request: Request, house: HouseHere) -> Response:
    secret = request.cookies.get(house.session_cookie, "")
    await house.store.write(lambda tx: sessions.log_out(tx, secret))
    response = see(SEE_LOGIN)
    response.delete_cookie(house.session_cookie, path="/", secure=house.origin.is_secure, httponly=True, samesite="lax")
    return response


@router.get("/welcome/{link}")
async def welcome(request: Request, house: HouseHere, link: str) -> Response:
    return await _welcome_page(request, house, link)


@router.post("/welcome/{link}")
async def enrol(
    request: Request, house: HouseHere, link: str, password: Text = "", again: Text = "", code: Text = ""
) -> Response:
    if password != again:
        return await _welcome_page(request, house, link, error="the two passwords differ. Type them again")
    try:
        secret = await sessions.enrol(house.store, house.seal, link, password, code, address=address_of(request))
    except (LoginRefused, PasswordWeak) as error:
        return await _welcome_page(request, house, link, error=str(error))
    return _with_session(house, see("/"), secret)


@router.post("/theme")
async def theme(house: HouseHere, theme: Text = "auto", back: Text = "/") -> Response:
    response = see(local_path(back))
    chosen = theme if theme in THEMES else "auto"
    response.set_cookie(
        "theme", chosen, max_age=366 * 86400, path="/", secure=house.origin.is_secure, samesite="lax", httponly=True
    )
    return response


def _with_session(house: House, response: RedirectResponse, secret: str) -> RedirectResponse:
    _keep(house, response, house.session_cookie, secret)
    return response


def _keep(house: House, response: Response, name: str, secret: str, *, max_age: int | None = None) -> None:
    response.set_cookie(
        name, secret, max_age=max_age, path="/", secure=house.origin.is_secure, httponly=True, samesite="lax"
    )


def _provider_cookie(house: House) -> str:
    """Binds a log-in at the provider to the browser that began it."""
    return f"{house.session_cookie}-login"


def _login_page(request: Request, *, next: str, name: str = "", error: str = "", status: int = 200) -> HTMLResponse:
    has_provider = house_of(request).provider is not None
    values = {"next": next, "name": name, "error": error, "has_provider": has_provider}
    return views_of(request).page(request, "login.html", values, identity=None, status=status)


async def _welcome_page(request: Request, house: House, link: str, error: str = "") -> HTMLResponse:
    found = await house.store.read(lambda connection: people.setup_link(connection, link, house.now_us()))
    seed = house.seal.open(found.sealed_seed, found.person)
    code = segno.make(seed_uri(seed, found.person, ISSUER), error="m")
    values = {
        "link": link,
        "person": found.person,
        "seed": " ".join(seed[at : at + 4] for at in range(0, len(seed), 4)),
        # segno's own SVG over our own address: nothing hostile is in it.
        "picture": Markup(code.svg_inline(scale=4, dark=None, svgclass="qr", lineclass=None, omitsize=True)),  # noqa: S704
        "error": error,
    }
    return views_of(request).page(request, "welcome.html", values, identity=None, status=409 if error else 200)
