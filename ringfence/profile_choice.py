"""Which text of a profile a new run is pinned to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection

from ringfence.errors import Refused
from ringfence_tools.profile import pin_profile
from ringfence_tools.profile_versions import published_in, versions_of


def chosen_document(connection: Connection, wanted: str, search: Sequence[Path]) -> str:
    """The document of what `wanted` names: a path, a name, or a name with its version.

    A version that another has replaced is refused: whoever published the newer one may have closed something. Runs that
    began with it go on with it. Raises `Refused` and `ProfileInvalid`.
    """
    name, _, number = wanted.partition("@")
    last = next(iter(versions_of(connection, name, limit=1)), None)
    if number and last is not None and number != str(last.number):
        raise Refused(f"profile {name} is at v{last.number}, and new runs begin with that", fix=f"Name it {name}")
    return pin_profile(wanted, search, published=published_in(connection))
