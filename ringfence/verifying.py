"""The verdict on a log, or on a copy of one, as a person at this machine can reach it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from ringfence.errors import Mistake
from ringfence.searching import open_index
from ringfence.settings import LOG_ORIGIN, Settings
from ringfence_audit.errors import InvalidExport
from ringfence_audit.index import Index
from ringfence_audit.index_check import check_index
from ringfence_audit.keys import Signer
from ringfence_audit.notes import VerifierKey
from ringfence_audit.originals import Box
from ringfence_audit.reading import Digests
from ringfence_audit.scan import Fault
from ringfence_audit.store import SqlStore
from ringfence_audit.tree import TreeReader
from ringfence_audit.verify import Verdict, verify, verify_file
from ringfence_tools.digest import recomputed


@dataclass(frozen=True, slots=True)
class Against:
    """What a log is held against. `key` is pinned by whoever asks; without one it is this machine's own, which proves
    *intact, not anchored* and no more. `anchors` are checkpoints that were kept elsewhere."""

    key: VerifierKey | None = None
    anchors: Sequence[str] = ()
    witnesses: Sequence[VerifierKey] = ()
    is_evidence_only: bool = False
    processes: int = 1


def verdict_of_file(settings: Settings, file: Path, against: Against | None = None) -> Verdict:
    """Verify a log file."""
    against = against or Against()
    return verify_file(
        file,
        against.key or own_key(settings),
        anchors=against.anchors,
        witnesses=against.witnesses,
        processes=against.processes,
        is_evidence_only=against.is_evidence_only,
        digests=_digests(settings),
    )


def verdict_of_log(settings: Settings, store: SqlStore, against: Against | None = None) -> Verdict:
    """Verify the live log, wherever it is: a file is opened anew and read-only."""
    against = against or Against()
    if settings.database_url is None:
        return verdict_of_file(settings, settings.database, against)
    key = against.key or own_key(settings)
    return store.read_now(
        lambda connection: verify(
            connection,
            key,
            anchors=against.anchors,
            witnesses=against.witnesses,
            blobs=store.blobs,
            is_evidence_only=against.is_evidence_only,
            digests=_digests(settings),
        )
    )


def _digests(settings: Settings) -> Digests:
    """Action digests are recomputed by the gate's own rule, on sealed originals too where their key lies here."""
    originals = Box.load_or_create(settings.originals_key) if settings.originals_key.exists() else None
    return Digests(lambda entry, data: recomputed(entry.actor, entry.on_behalf_of, data), originals)


def index_fault(store: SqlStore, index: Index) -> Fault | None:
    """Where the index differs from the evidence, as far as it reaches."""

    def work(connection: Connection) -> Fault | None:
        return check_index(index, connection, size=TreeReader(connection).size())

    return store.read_now(work)


def stale_index(settings: Settings, store: SqlStore) -> Fault | None:
    """The same for this machine's index, where it has one."""
    if not settings.index_file.exists():
        return None
    with open_index(settings, store) as index:
        return index_fault(store, index)


def own_key(settings: Settings) -> VerifierKey:
    """The public half of this machine's signing key."""
    return VerifierKey.of_log(LOG_ORIGIN, Signer.load(settings.key_file, LOG_ORIGIN).public_key)


def read_key(text: str) -> VerifierKey:
    """A public key as text, or the file that holds one. Raises `Mistake`."""
    try:
        return VerifierKey.parse(text if "+" in text and not Path(text).is_file() else read_note(Path(text)))
    except InvalidExport as error:
        raise Mistake(str(error), fix="Give name+hash+base64, or a file that holds it") from error


def read_note(path: Path) -> str:
    """A small text file that a person kept. Raises `Mistake`."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Mistake(f"{path} cannot be read as text", fix="Name a file that holds a checkpoint or a key") from error
