"""A task that comes over the network: the same order as at the terminal, with what a path could reach closed.

A path would read this machine, so only repositories below the operator's folder may be named by one; a model is the
profile's or the operator's, never the caller's.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from ringfence.api.forms.tasks import FromStep, NewTask
from ringfence.api.house import House
from ringfence.api.problems import Unseen
from ringfence.auth.identity import Identity
from ringfence.auth.roles import Permission
from ringfence.branching import open_branch
from ringfence.errors import Mistake, Refused, Unavailable
from ringfence.opening import Order, fresh_id, is_url, open_order
from ringfence.settings import Settings
from ringfence_agents.errors import RunNotFound
from ringfence_agents.runs import RunRecord, load
from ringfence_tools.calls import RunId
from ringfence_tools.people import Person


async def assign(house: House, identity: Identity, given: NewTask, *, key: str = "") -> RunRecord:
    """Open the task. With an idempotency `key` its run's id follows from sender and key, so that a second request
    finds the first one's run. Raises what `open_order` raises, and `Refused` where nothing can be assigned here.
    """
    run, before = await _begun(house, identity, key)
    if before is not None:
        return before
    name, reach = given.profile.partition("@")[0], identity.reach(Permission.READ)
    await house.store.read(lambda connection: house.catalogue.seen(connection, house.settings, reach, name))
    if house.workshop is None:
        raise Refused("this process assigns no tasks", fix="Ask another, or start one with `ringfence serve`")
    order = Order(
        text=given.text,
        repository=_repository(house.settings, given.repository),
        profile=given.profile,
        budget=given.budget or None,
        team=given.team or "",
    )
    # The profile's `teams` are matched with the one team that the task is for.
    person = Person(identity.name, frozenset({given.team}) if given.team else frozenset())
    try:
        opened = await open_order(house.workshop, order, person, run=run)
    except FileExistsError as error:
        raise Unavailable("this request is being carried out already", fix="Ask again in a moment") from error
    return await house.store.read(lambda connection: load(connection, opened))


async def begin_from(house: House, identity: Identity, source: RunId, given: FromStep, *, key: str = "") -> RunRecord:
    """Open a fork (or a retry) of a run that the caller may see and assign for. Raises what `open_branch` raises."""
    run, before = await _begun(house, identity, key)
    if before is not None:
        return before
    try:
        opened = await open_branch(
            house.store,
            house.settings.runs,
            source,
            given.step,
            by=identity.principal,
            reason=given.reason,
            is_retry=given.is_retry,
            word=given.message,
            run=run,
        )
    except FileExistsError as error:
        raise Unavailable("this request is being carried out already", fix="Ask again in a moment") from error
    return await house.store.read(lambda connection: load(connection, opened))


async def _begun(house: House, identity: Identity, key: str) -> tuple[RunId, RunRecord | None]:
    """The id for what the request is to begin, and the run of that id where the same request has begun it before."""
    if not key:
        return RunId(fresh_id("r")), None
    run = _run_of(identity, key)
    try:
        return run, await house.store.read(lambda connection: load(connection, run))
    except RunNotFound:
        return run, None


def _run_of(identity: Identity, key: str) -> RunId:
    digest = hashlib.sha256(f"{identity.name}\0{key}".encode()).digest()
    return RunId("r" + base64.b32encode(digest).decode().lower()[:20])


def _repository(settings: Settings, text: str) -> str:
    """Raises `Mistake` for a path that the operator does not offer."""
    if is_url(text):
        return text
    offered = settings.repositories
    if offered is None:
        raise Mistake("a repository is named by its https URL here", fix="Write https://git.example.org/team/project")
    root = offered.resolve()
    path = (root / text).resolve()
    if not path.is_relative_to(root) or not path.is_dir():
        raise Unseen("repository")
    return str(Path(path))
