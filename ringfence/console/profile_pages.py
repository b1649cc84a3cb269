"""Profiles: what each allows in plain words, its versions and what changed between them, who uses it, a call to try;
and the form that publishes, which shows what a text would change before it counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Form, Path, Query, Request
from fastapi.responses import HTMLResponse
from sqlalchemy import Connection
from starlette.responses import Response

from ringfence.api import catalogue
from ringfence.api.access import HouseHere, require_anywhere
from ringfence.api.house import House
from ringfence.api.problems import DOMAIN, problem_of
from ringfence.api.publishing import looked_at
from ringfence.auth.identity import Identity
from ringfence.auth.roles import Permission
from ringfence.console.visiting import Visitor, see, views_of
from ringfence.profile_uses import uses_of
from ringfence_tools import profile_versions
from ringfence_tools.profile_skeleton import skeleton
from ringfence_tools.profile_versions import Draft

router = APIRouter()
NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"
ProfileName = Annotated[str, Path(pattern=NAME)]
Number = Annotated[int | None, Query(ge=1, le=1_000_000)]
VERSIONS_SHOWN = 20
TEXT_CHARS = 128 << 10


@dataclass(frozen=True, slots=True)
class Asked:
    """What the page of a profile was asked for beside the profile."""

    version: int | None
    since: int | None
    other: str
    call: str
    below: int | None


@router.get("/profiles")
async def profiles(request: Request, house: HouseHere, visitor: Visitor) -> HTMLResponse:
    await require_anywhere(request, visitor, Permission.READ)
    reach = visitor.reach(Permission.READ)
    found = await house.store.read(lambda c: house.catalogue.listed(c, house.settings, reach))
    values = {"profiles": found, "may_publish": visitor.may_anywhere(Permission.PUBLISH)}
    return views_of(request).page(request, "profiles.html", values, identity=visitor)


@router.get("/profiles/{name}")
async def profile(
    request: Request,
    house: HouseHere,
    visitor: Visitor,
    name: ProfileName,
    version: Number = None,
    since: Number = None,
    other: Annotated[str, Query(pattern=r"^([a-z0-9][a-z0-9-]{0,62})?$")] = "",
    call: Annotated[str, Query(max_length=8000)] = "",
    below: Number = None,
) -> HTMLResponse:
    await require_anywhere(request, visitor, Permission.READ)
    asked = Asked(version, since, other, call.strip(), below)
    values = await house.store.read(lambda c: _profile(c, house, visitor, name, asked))
    return views_of(request).page(request, "profile.html", values, identity=visitor)


@router.get("/publish")
async def publish_form(
    request: Request,
    house: HouseHere,
    visitor: Visitor,
    name: Annotated[str, Query(pattern=r"^([a-z0-9][a-z0-9-]{0,62})?$")] = "",
) -> HTMLResponse:
    """Begins with the newest version's text as its author wrote it, or with a profile to start from."""
    await require_anywhere(request, visitor, Permission.PUBLISH)
    reach = visitor.reach(Permission.READ)

    def look(connection: Connection) -> str:
        if not name:
            return skeleton("team")
        line = house.catalogue.seen(connection, house.settings, reach, name)
        if line.published is not None:
            return profile_versions.source_of(connection, name, line.published.number)
        return house.catalogue.shown(connection, house.settings, reach, name).document

    text = await house.store.read(look)
    return _publish_page(request, visitor, text=text)


@router.post("/publish")
async def publish(
    request: Request,
    house: HouseHere,
    visitor: Visitor,
    action: Annotated[Literal["check", "publish"], Form()] = "check",
    text: Annotated[str, Form(max_length=TEXT_CHARS)] = "",
    reason: Annotated[str, Form(max_length=profile_versions.REASON_CHARS)] = "",
    since: Annotated[int | None, Form(ge=0, le=1_000_000)] = None,
    seen: Annotated[str, Form(max_length=64)] = "",
) -> Response:
    """`since` and `seen` are what the page had shown: the newest version, and the digest of the text."""
    await require_anywhere(request, visitor, Permission.PUBLISH)
    text = text.replace("\r\n", "\n")  # how browsers send the lines of a form
    draft: Draft | None = None
    try:
        draft = looked = await looked_at(request, house, visitor, text)
        if action == "check":
            return _publish_page(request, visitor, text=text, reason=reason, draft=draft)
        if seen != draft.digest:
            said = "The text is another than you looked at. These are its changes."
            return _publish_page(request, visitor, text=text, reason=reason, draft=draft, error=said, status=409)
        made = await house.store.write(
            lambda tx: profile_versions.publish(tx, looked, by=visitor.principal, reason=reason, since=since)
        )
    except DOMAIN as error:
        found = problem_of(error)
        said = f"{found.detail}. {found.fix}".rstrip(". ") + "."
        return _publish_page(request, visitor, text=text, reason=reason, draft=draft, error=said, status=found.status)
    return see(f"/profiles/{made.version.name}")


def _publish_page(
    request: Request,
    visitor: Identity,
    *,
    text: str,
    reason: str = "",
    draft: Draft | None = None,
    error: str = "",
    status: int = 200,
) -> HTMLResponse:
    values = {"text": text, "reason": reason, "draft": draft, "error": error}
    return views_of(request).page(request, "publish.html", values, identity=visitor, status=status)


def _profile(connection: Connection, house: House, visitor: Identity, name: str, asked: Asked) -> dict[str, object]:
    reach = visitor.reach(Permission.READ)
    shown = house.catalogue.shown(connection, house.settings, reach, name, asked.version)
    versions = catalogue.seen_versions(connection, reach, name, below=asked.below, limit=VERSIONS_SHOWN + 1)
    number = shown.profile.metadata.version
    earlier = [one.number for one in catalogue.seen_versions(connection, reach, name, below=number, limit=1)]
    since = asked.since
    if since is None and shown.published is not None and not asked.other and earlier:
        since = earlier[0]
    compared = None
    if asked.other or since is not None:
        before = house.catalogue.shown(connection, house.settings, reach, asked.other or name, since)
        compared = catalogue.compared(before, shown)
    decided, error = None, ""
    if asked.call:
        try:
            decided = catalogue.tried(shown, asked.call)
        except DOMAIN as problem:
            error = problem_of(problem).detail
    listed = house.catalogue.listed(connection, house.settings, reach)
    return {
        "name": name,
        "shown": shown,
        "number": number,
        "versions": versions[:VERSIONS_SHOWN],
        "more": versions[VERSIONS_SHOWN - 1].number if len(versions) > VERSIONS_SHOWN else None,
        "compared": compared,
        "compared_with": asked.other or (None if since is None else f"v{since}"),
        "uses": uses_of(connection, reach, name),
        "call": asked.call,
        "decided": decided,
        "error": error,
        "other": asked.other,
        "names": [one.name for one in listed if one.name != name and not one.problem],
        "may_publish": visitor.may_anywhere(Permission.PUBLISH),
    }
