"""What the handlers of pages share: who visits, how a page is rendered, where one is sent next."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Depends, Request
from fastapi.responses import RedirectResponse

from ringfence.api.access import HouseHere, session_identity
from ringfence.api.problems import NotLoggedIn
from ringfence.auth.identity import Identity
from ringfence.console.views import Views

SEE_LOGIN = "/login"
_LOCAL = re.compile(r"/[A-Za-z0-9_.~/?=&%,:@+-]*\Z")


async def _visitor(request: Request, house: HouseHere) -> Identity:
    found = await session_identity(request, house)
    if found is None:
        raise NotLoggedIn
    return found


Visitor = Annotated[Identity, Depends(_visitor)]


def views_of(request: Request) -> Views:
    found = request.app.state.views
    assert isinstance(found, Views)  # noqa: S101 put there by `pages.install`
    return found


def local_path(text: str) -> str:
    """A path of this console, or its front page for anything that could lead elsewhere."""
    return text if _LOCAL.match(text) and not text.startswith("//") else "/"


def see(path: str) -> RedirectResponse:
    """Go on with GET, so that a reload repeats nothing."""
    return RedirectResponse(path, 303)
