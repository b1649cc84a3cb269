"""Publishing a profile over the network: who may, and the text looked at before it counts.

It needs `profile.publish` in every team that the profile is for, and in those that the name has served so far: who
publishes for one team cannot take a name from another. What reaches past the sandbox to the machine, its secrets or its
network is not one team's matter, and needs the permission in every team, as does a profile that is for everybody.
"""

from __future__ import annotations

from fastapi import Request

from ringfence.api.access import require, require_anywhere
from ringfence.api.house import House
from ringfence.auth.identity import Identity
from ringfence.auth.roles import EVERY_TEAM, Permission
from ringfence_tools.profile_model import Profile
from ringfence_tools.profile_versions import Draft, draft


async def looked_at(request: Request, house: House, identity: Identity, text: str) -> Draft:
    """The text as it would be published. Raises what `draft` raises, `Unseen` and `Denied`."""
    await require_anywhere(request, identity, Permission.PUBLISH)
    search = house.settings.profile_search
    found = await house.store.read(lambda connection: draft(connection, text.encode(), search=search))
    for team in sorted(_teams(found)):
        await require(request, identity, Permission.PUBLISH, team)
    return found


def _teams(found: Draft) -> set[str]:
    if reaches_out(found.profile) or not found.profile.teams:
        return {EVERY_TEAM}
    before = found.before
    if before is None:
        return set(found.profile.teams)
    return {*found.profile.teams, *(before.teams or (EVERY_TEAM,))}


def reaches_out(profile: Profile) -> bool:
    """Whether it gives agents something of the machine that a worker runs on, or of the network around it."""
    sandbox, network = profile.sandbox, profile.network
    return bool(
        sandbox.mounts
        or sandbox.venv
        or sandbox.reduced
        or network.private
        or network.credentials
        or (profile.model is not None and (profile.model.endpoint or profile.model.replay))
    )
