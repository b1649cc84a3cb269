"""Sends checkpoints to where this machine cannot take them back, and fetches them from there to verify against.

Anchors are named in `anchors.yaml` of the configuration folder:

    anchors:
      - {name: office, git: "ssh://git@git.example.org/anchors.git"}
      - {name: w1, witness: "https://witness.example.org", key: "witness.example.org/w1+1a2b3c4d+BA..."}
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ringfence.errors import Mistake, Unavailable
from ringfence.settings import LOG_ORIGIN, Settings
from ringfence_audit.anchor_git import GitSink
from ringfence_audit.anchor_witness import WitnessSink
from ringfence_audit.anchors import Offer, Probe, Sink, SinkUnreachable, remember, remembered
from ringfence_audit.errors import InvalidExport
from ringfence_audit.notes import VerifierKey, parse_checkpoint, parse_note
from ringfence_audit.store import SqlStore
from ringfence_audit.tree import TreeReader

_Name = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9-]{0,60}$")]


class GitForm(BaseModel):
    """A git repository on a server that refuses rewriting."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: _Name
    git: Annotated[str, Field(min_length=1, max_length=2000)]
    branch: Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9/-]{0,100}$")] = "checkpoints"


class WitnessForm(BaseModel):
    """A witness that speaks c2sp.org/tlog-witness, and its public key."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: _Name
    witness: Annotated[str, Field(pattern="^https?://", max_length=2000)]
    key: Annotated[str, Field(max_length=2000)]


class AnchorsFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    anchors: list[GitForm | WitnessForm] = Field(max_length=50)


@dataclass(frozen=True, slots=True)
class Anchored:
    """What became of one sink. `problem` is empty where the checkpoint is kept there."""

    sink: str
    kind: Literal["git", "witness"]
    size: int
    problem: str = ""


def load_sinks(settings: Settings) -> list[Sink]:
    """The configured anchors; none where there is no file. Raises `Mistake`."""
    path = settings.config / "anchors.yaml"
    if not path.exists():
        return []
    try:
        form = AnchorsFile.model_validate(yaml.safe_load(path.read_bytes()))
        sinks = [_sink(item, settings.home) for item in form.anchors]
    except (OSError, yaml.YAMLError) as error:
        raise Mistake(f"{path} cannot be read", fix="Mend it, or remove it to anchor nowhere") from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise Mistake(f"{path}: {place}: {first['msg']}", fix="docs/audit.md shows the form") from error
    except InvalidExport as error:
        raise Mistake(f"{path}: {error}", fix="docs/audit.md shows the form") from error
    if len({sink.name for sink in sinks}) < len(sinks):
        raise Mistake(f"{path} names two anchors alike", fix="Give each a name of its own")
    return sinks


def _sink(form: GitForm | WitnessForm, home: Path) -> Sink:
    if isinstance(form, GitForm):
        return GitSink(form.name, form.git, home / "anchors" / form.name, branch=form.branch)
    return WitnessSink(form.name, form.witness, VerifierKey.parse(form.key))


def witness_keys(sinks: Sequence[Sink]) -> list[VerifierKey]:
    return [sink.key for sink in sinks if isinstance(sink, WitnessSink)]


def anchor(store: SqlStore, sinks: Sequence[Sink]) -> list[Anchored]:
    """Seal a checkpoint and send it to every sink; one that does not answer does not keep it from the others.

    Raises `SinkRefused` where a sink says that this log is not the one that it knows, and `Unavailable` for an empty
    log.
    """
    note = asyncio.run(store.checkpoint())
    if note is None:
        raise Unavailable("the log is empty", fix="Start a run first")
    offer = offer_of(store, note)
    done: list[Anchored] = []
    for sink in sinks:
        kind: Literal["git", "witness"] = "witness" if isinstance(sink, WitnessSink) else "git"
        try:
            kept = sink.publish(offer)
        except SinkUnreachable as error:
            done.append(Anchored(sink.name, kind, offer.size, str(error)))
            continue
        asyncio.run(store.write(lambda tx, name=sink.name, kept=kept: remember(tx, name, offer.size, kept)))  # type: ignore[misc]  # bound per turn
        done.append(Anchored(sink.name, kind, offer.size))
    return done


def offer_of(store: SqlStore, note: str) -> Offer:
    checkpoint = parse_checkpoint(parse_note(note).text)

    def consistency(old: int) -> Sequence[bytes]:
        return store.read_now(lambda connection: TreeReader(connection).consistency(old, checkpoint.size))

    return Offer(checkpoint.origin, checkpoint.size, note, consistency)


def fetched(store: SqlStore, sinks: Sequence[Sink]) -> list[str]:
    """What the sinks hold of this log, as they tell it now, and our own copies of what witnesses cosigned.

    Raises `SinkUnreachable`.
    """
    notes: list[str] = []
    for sink in sinks:
        notes += sink.fetch(LOG_ORIGIN)
        if isinstance(sink, WitnessSink):
            notes += store.read_now(lambda connection, name=sink.name: remembered(connection, name))  # type: ignore[misc]  # as above
    return list(dict.fromkeys(notes))


def probes(sinks: Sequence[Sink]) -> list[tuple[str, Probe]]:
    """Try to rewrite each sink. One that cannot be reached counts as one that was not shown to hold."""
    done: list[tuple[str, Probe]] = []
    for sink in sinks:
        try:
            done += [(sink.name, probe) for probe in sink.probe(LOG_ORIGIN)]
        except SinkUnreachable as error:
            done.append((sink.name, Probe("reach it", is_refused=False, detail=str(error))))
    return done
