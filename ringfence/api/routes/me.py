"""Who am I, my tokens, and a log-in for programs that have no browser."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import Connection

from ringfence.api.access import Caller, HouseHere, address_of, require
from ringfence.api.forms.people import GroupOut, Me, PlaceOut
from ringfence.api.forms.shape import Done, Limit, PageOf, json_of, page
from ringfence.api.forms.tokens import LoginGiven, NewToken, TokenMade, TokenOut
from ringfence.api.once import KeyHere
from ringfence.api.problems import Unseen, documented
from ringfence.auth import people, sessions, tokens
from ringfence.auth.errors import AuthError, Denied
from ringfence.auth.identity import Identity
from ringfence.auth.roles import EVERY_TEAM, Permission
from ringfence_audit.events import JsonValue
from ringfence_audit.port import Transaction
from ringfence_tools.clock import moment

router = APIRouter(tags=["me"])
LOGIN_TOKEN_DAYS = 30


@router.get("/me", responses=documented())
async def me(identity: Caller) -> Me:
    """Who the request comes from, and what they may do where."""
    teams = sorted({each.team for each in identity.memberships})
    return Me(
        name=identity.name,
        display=identity.display,
        kind="service" if identity.is_service else "person",
        how=identity.how,
        roles=[PlaceOut(team=each.team, role=each.role) for each in identity.memberships],
        groups=[GroupOut(team=place.team, name=place.name) for place in identity.groups],
        permissions={team: sorted(identity.permissions_in(team)) for team in teams},
    )


@router.post("/login", status_code=201, responses=documented(409))
async def log_in(request: Request, house: HouseHere, given: LoginGiven) -> TokenMade:
    """Name, password and code for a token that may do what its owner may, for 30 days."""
    address = address_of(request)
    secret = await sessions.log_in(
        house.store, house.seal, given.name, given.password, given.code, address=address, refusals=house.refusals
    )

    def make(tx: Transaction) -> TokenMade:
        use = sessions.authenticate(tx.connection, secret, house.now_us())
        sessions.log_out(tx, secret)
        if use is None:
            raise AuthError("the account was closed meanwhile", fix="Ask an admin")
        return _make(tx, use.identity, use.identity.name, list(Permission), given.label or "log-in", LOGIN_TOKEN_DAYS)

    return await house.store.write(make)


@router.get("/tokens", responses=documented())
async def list_tokens(
    house: HouseHere,
    identity: Caller,
    after: Annotated[str, Query(max_length=100)] = "",
    limit: Limit = 50,
) -> PageOf[TokenOut]:
    """Your own; with people.manage everybody's. Without their secrets, which nobody keeps."""
    person = None if identity.may(Permission.MANAGE, EVERY_TEAM) else identity.name
    found = await house.store.read(lambda c: tokens.list_tokens(c, person=person, after=after, limit=limit))
    return page([TokenOut.of(token) for token in found], limit, found[-1].id if found else None)


@router.post("/tokens", status_code=201, responses=documented(403, 404, 409))
async def create_token(
    request: Request, house: HouseHere, identity: Caller, key: KeyHere, given: NewToken
) -> TokenMade:
    """A token of your own; for a service account with people.manage. Never wider than the token that asks, and one of
    your own ends with it at the latest."""
    owner = given.person or identity.name
    if owner != identity.name:
        await require(request, identity, Permission.MANAGE, EVERY_TEAM)
        record = await house.store.read(lambda connection: people.person_record(connection, owner))
        if record.kind != "service":
            raise Denied(f"{owner} is a person", fix="People make their own tokens")
    scopes = [scope for scope in given.scopes if identity.scopes is None or scope in identity.scopes]
    if not scopes:
        raise Denied("this token holds none of these scopes", fix="Log in, and make the token from there")

    def make(tx: Transaction) -> dict[str, JsonValue]:
        made: list[TokenMade] = []

        def work(tx: Transaction) -> dict[str, JsonValue]:
            made.append(_make(tx, identity, owner, scopes, given.label, given.days))
            return json_of(made[0].model_copy(update={"token": ""}))

        answer = key.once(tx, identity, work)
        return json_of(made[0]) if made else answer

    return TokenMade.model_validate(await house.store.write(make))


@router.delete("/tokens/{token}", responses=documented(404))
async def revoke_token(house: HouseHere, identity: Caller, token: str) -> Done:
    """End a token now."""
    is_manager = identity.may(Permission.MANAGE, EVERY_TEAM)

    def revoke(tx: Transaction) -> None:
        _seen_token(tx.connection, token, None if is_manager else identity.name)
        tokens.revoke(tx, token, by=identity.principal)

    await house.store.write(revoke)
    return Done()


@router.post("/logout", responses=documented())
async def log_out(request: Request, response: Response, house: HouseHere, identity: Caller) -> Done:
    """End this token, or this browser session."""
    if identity.token:
        await house.store.write(lambda tx: tokens.revoke(tx, identity.token, by=identity.principal))
        return Done()
    secret = request.cookies.get(house.session_cookie, "")
    if secret:
        await house.store.write(lambda tx: sessions.log_out(tx, secret))
        response.delete_cookie(house.session_cookie, path="/", secure=house.origin.is_secure, httponly=True)
    return Done()


def _seen_token(connection: Connection, token: str, owner: str | None) -> None:
    found = tokens.get(connection, token)
    if found is None or (owner is not None and found.person != owner):
        raise Unseen("token")


def _make(
    tx: Transaction, identity: Identity, owner: str, scopes: list[Permission], label: str, days: int
) -> TokenMade:
    maker = identity.token if owner == identity.name else ""
    text = tokens.create(tx, owner, by=identity.principal, scopes=scopes, label=label, days=days, maker=maker)
    found = tokens.get(tx.connection, text.id)
    if found is None:
        raise Unseen("token")
    return TokenMade(id=text.id, token=str(text), expires_at=moment(found.expires_at))
