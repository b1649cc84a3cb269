"""From what a person typed to a run that waits for its worker.

Everything that can be wrong is found before the first entry: profile, repository, budget, model. What was made on the
way is removed again when any of it fails.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import urlsplit

from ringfence import models
from ringfence.budgets import check_team, narrowed
from ringfence.cluster import with_sandbox
from ringfence.errors import Mistake, Refused, Unavailable
from ringfence.profile_choice import chosen_document
from ringfence.wiring import Workshop, clone_spec_of
from ringfence_agents.prompt import system_prompt
from ringfence_agents.runs import NewRun, TaskId, open_run
from ringfence_sandbox.cloning import bundle_from_url, host_of
from ringfence_sandbox.contract import Bundle, SandboxId
from ringfence_sandbox.source import bundle_from_path
from ringfence_sandbox.ssh_source import bundle_over_ssh, place_of
from ringfence_tools.calls import RunId
from ringfence_tools.egress import CloneEgress, is_listed
from ringfence_tools.people import Person
from ringfence_tools.policy import Policy
from ringfence_tools.profile import Profile, parse_profile

TASK_LIMIT_CHARS = 32 << 10
LEAST_ROOM_BYTES = 16 << 20
"""Less than this does not hold the log, a sandbox's own files and any workspace: nothing is begun."""
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_SCP_FORM = re.compile(r"[A-Za-z0-9._-]+@[A-Za-z0-9.-]+:.+\Z")


@dataclass(frozen=True, slots=True)
class Order:
    """What a person asked for. `repository` is a path or an https or ssh URL."""

    text: str
    repository: str
    profile: str
    model: str | None = None
    budget: str | None = None
    is_dirty_allowed: bool = False
    sandbox: str | None = None
    """`kubernetes`: on the cluster instead of on this machine."""
    is_ssh_allowed: bool = False
    """The keys of this process are the person's own, so that ssh URLs may be fetched with them."""
    team: str = ""
    """The team that it is for; without it, the one of the profile's that the person is in."""


async def open_order(
    workshop: Workshop, order: Order, person: Person, *, run: RunId | None = None, is_fence_tried: bool = False
) -> RunId:
    """Store the task and its run, queued; `run` where the caller has chosen its id.

    With `is_fence_tried` a sandbox is built once before, so that a machine which cannot is told now, and nothing is
    begun. Raises `Mistake`, `Refused`, `Unavailable`, `ProfileInvalid`, `WorkspaceRefused`, `IsolationUnavailable`.
    """
    if not order.text.strip() or len(order.text) > TASK_LIMIT_CHARS:
        raise Mistake("the task is empty or too long", fix=f"Describe it in 1 to {TASK_LIMIT_CHARS} characters")
    _check_room(workshop.settings.home)
    search = workshop.settings.profile_search
    document = await workshop.store.read(lambda connection: chosen_document(connection, order.profile, search))
    if order.sandbox is not None:
        document = with_sandbox(document, order.sandbox, workshop.settings)
    profile = parse_profile(document.encode(), order.profile)
    Policy.compile(profile)
    _check_allowed(profile, order.repository, person)
    team = order.team or next(iter(sorted(set(profile.teams) & person.groups)), "")
    await check_team(workshop.store, profile, team)
    caps = narrowed(profile.budget.run, order.budget)
    model = models.choose(profile, order.model, workshop.settings)
    await models.check_reach(model, profile, workshop.settings, workshop.egress)
    run = run or RunId(fresh_id("r"))
    with _folder(workshop.settings.runs / run) as folder:
        bundle = await _bundle(workshop, order, profile, run=run, person=person, folder=folder)
        if is_fence_tried and profile.sandbox.kind == "local" and not profile.sandbox.reduced:
            await (await workshop.backend(profile)).check()
        new = NewRun(
            run=run,
            task=TaskId(fresh_id("t")),
            text=order.text,
            repository=order.repository if is_url(order.repository) else str(Path(order.repository).resolve()),
            assigned_by=person.principal,
            profile=profile.metadata.name,
            profile_version=str(profile.metadata.version),
            profile_digest=hashlib.sha256(document.encode()).hexdigest(),
            profile_document=document,
            model=model,
            base_commit=bundle.commit,
            system_prompt=system_prompt(profile),
            workspace={"bundle": str(bundle.path), "branch": bundle.branch},
            team=team,
            setup=profile.sandbox.setup,
            caps=caps,
        )
        toolbox = workshop.toolbox
        return await workshop.store.write(lambda tx: open_run(tx, new, is_read_only=toolbox.is_read_only))


def fresh_id(prefix: str) -> str:
    """A random name of lower-case letters and digits, about 50 bits beside its prefix."""
    return prefix + "".join(secrets.choice(_ALPHABET) for _ in range(10))


def is_url(repository: str) -> bool:
    return "://" in repository or (_SCP_FORM.match(repository) is not None and not Path(repository).exists())


def _check_room(home: Path) -> None:
    free = shutil.disk_usage(home).free
    if free < LEAST_ROOM_BYTES:
        raise Unavailable(
            f"the disk that holds {home} has only {free >> 20} MiB left",
            fix=f"Free at least {LEAST_ROOM_BYTES >> 20} MiB, or point RINGFENCE_HOME elsewhere",
        )


def _check_allowed(profile: Profile, repository: str, person: Person) -> None:
    if profile.teams and not set(profile.teams) & person.groups:
        raise Refused(
            f"profile {profile.title} is for {', '.join(profile.teams)}, and {person.name} is in none of these teams",
            fix="Use another profile, or ask its owner",
        )
    name = repository_name(repository)
    if profile.repositories and not any(fnmatchcase(name, pattern) for pattern in profile.repositories):
        raise Refused(f"profile {profile.title} is not for {name}", fix=f"It is for {', '.join(profile.repositories)}")


def repository_name(repository: str) -> str:
    """`host/owner/name` of a URL, or the absolute path: what a profile's `repositories` are matched with."""
    if not is_url(repository):
        return str(Path(repository).resolve())
    if "://" in repository:
        parts = urlsplit(repository)
        name = f"{parts.hostname or ''}{parts.path}"
    else:
        host, _, path = repository.partition(":")
        name = f"{host.partition('@')[2].lower()}/{path}"
    return name.removesuffix("/").removesuffix(".git")


async def _bundle(
    workshop: Workshop, order: Order, profile: Profile, *, run: RunId, person: Person, folder: Path
) -> Bundle:
    if not is_url(order.repository):
        return bundle_from_path(Path(order.repository), into=folder, allow_dirty=order.is_dirty_allowed)
    place = place_of(order.repository)
    if place is not None and not order.is_ssh_allowed:
        raise Mistake("an ssh URL needs your own key, which is not here", fix="Give an https URL")
    if place is not None:
        guard = CloneEgress(workshop.store, run, person.principal, place.host, place.port or 22)
        return await bundle_over_ssh(place, into=folder, sandbox=SandboxId(run), egress=guard)
    host, port = host_of(order.repository)
    is_private = is_listed(profile.network.private, host, port)
    egress = CloneEgress(workshop.store, run, person.principal, host, port, is_private_allowed=is_private)
    cloner, spec = await workshop.cloner(profile), clone_spec_of(profile)
    return await bundle_from_url(order.repository, cloner, into=folder, egress=egress, spec=spec)


@contextmanager
def _folder(path: Path) -> Iterator[Path]:
    """The run's folder; gone again where its run was not opened."""
    path.mkdir(mode=0o700, parents=True)
    try:
        yield path
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
