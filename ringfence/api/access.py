"""Who a request comes from, and whether they may: asked by every handler of the API and the console.

A session's cookie or a token's header; never both meanings of one request. What may not be known of is a 404, what may
be known of but not done is a 403 and an entry.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy import Connection

from ringfence.api.house import House
from ringfence.api.problems import NotLoggedIn, Unseen
from ringfence.auth import attempts, sessions, tokens
from ringfence.auth.errors import Denied
from ringfence.auth.identity import Identity
from ringfence.auth.roles import EVERY_TEAM, Permission
from ringfence_audit.events import JsonValue
from ringfence_audit.port import Transaction
from ringfence_tools.clock import micros

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


def house_of(request: Request) -> House:
    found = request.app.state.house
    assert isinstance(found, House)  # noqa: S101 put there by `app.create_app`
    return found


HouseHere = Annotated[House, Depends(house_of)]


def address_of(request: Request) -> str:
    """The peer, as the server (or the proxy that it was told to trust) names it."""
    return request.client.host if request.client is not None else "unknown"


def request_line(request: Request) -> str:
    return f"{request.method} {request.url.path}"[:300]


async def caller(request: Request, house: HouseHere) -> Identity:
    """Raises `NotLoggedIn`."""
    header = request.headers.get("authorization")
    if header is not None:
        return await _by_token(request, house, header)
    found = await session_identity(request, house)
    if found is None:
        raise NotLoggedIn
    return found


Caller = Annotated[Identity, Depends(caller)]


async def session_identity(request: Request, house: House) -> Identity | None:
    """Whose browser session this is; None without one."""
    secret = request.cookies.get(house.session_cookie, "")
    if not secret:
        return None
    now_us = house.now_us()
    use = await house.store.read(lambda connection: sessions.authenticate(connection, secret, now_us))
    if use is None:
        return None
    if use.is_due:
        await house.store.write(lambda tx: sessions.touch(tx, secret))
    return use.identity


async def is_still(request: Request, house: House, identity: Identity) -> bool:
    """Whether the caller of an open stream is still who they were, with the same roles."""
    now_us = house.now_us()
    header = request.headers.get("authorization", "")

    def look(connection: Connection) -> Identity | None:
        if header:
            token = tokens.authenticate(connection, header.partition(" ")[2].strip(), now_us)
            return None if token is None else token.identity
        session = sessions.authenticate(connection, request.cookies.get(house.session_cookie, ""), now_us)
        return None if session is None else session.identity

    return await house.store.read(look) == identity


async def _by_token(request: Request, house: House, header: str) -> Identity:
    scheme, _, text = header.partition(" ")
    address, now_us = address_of(request), house.now_us()

    def look(connection: Connection) -> tokens.TokenUse | None:
        return tokens.authenticate(connection, text.strip(), now_us) if scheme.lower() == "bearer" else None

    # 256 random bits need no waiting: a wrong token is always a 401, and only what is recorded of them is bounded.
    use = await house.store.read(look)
    if use is None:
        await _refused_token(house, address, request_line(request))
        raise NotLoggedIn("this token is unknown, has expired or was revoked")
    if use.is_due or request.method not in SAFE:
        found = use
        await house.store.write(lambda tx: tokens.record_use(tx, found, address=address, request=request_line(request)))
    return use.identity


async def _refused_token(house: House, address: str, line: str) -> None:
    """A wrong token is counted like a wrong password, and is an entry."""

    def count(tx: Transaction) -> bool:
        if attempts.wait_s(tx.connection, None, address, micros(tx.now)):
            return False
        attempts.failed(tx, None, address)
        return True

    if await house.store.write(count):
        data: dict[str, JsonValue] = {"what": "token.refused", "address": address, "request": line}
        await house.refusals.record(house.store, lambda _: data)


async def require(request: Request, identity: Identity, permission: Permission, team: str) -> None:
    """Raises `Unseen` where the caller may not even know of the team's things, and `Denied`; either is an entry."""
    if identity.may(permission, team):
        return
    house = house_of(request)
    line, address = request_line(request), address_of(request)
    await house.store.write(
        lambda tx: sessions.record_denial(tx, identity, permission=permission.value, request=line, address=address)
    )
    if not identity.may(Permission.READ, team) and not (team == EVERY_TEAM and identity.memberships):
        raise Unseen
    where = "" if team in ("", EVERY_TEAM) else f" in {team}"
    raise Denied(f"{identity.name} may not do this{where}", fix=f"It needs {permission.value}: ask an admin for a role")


async def require_anywhere(request: Request, identity: Identity, permission: Permission) -> None:
    """For lists: the caller holds the permission somewhere. Raises `Denied`."""
    if not identity.may_anywhere(permission):
        await require(request, identity, permission, EVERY_TEAM)
        raise Denied(f"{identity.name} may not do this", fix=f"It needs {permission.value}: ask an admin for a role")
