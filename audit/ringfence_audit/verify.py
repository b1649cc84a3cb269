"""Verification: whether a log is what was written, and how far that can be said.

*broken* names the first entry that is not as it was and why. *intact* means that entries, run chains, tree and signed
checkpoints agree; on a machine that holds both log and key that proves no more than *intact, not anchored*, since
whoever holds both can write another history. *anchored* compares with checkpoints that were kept elsewhere,
*witnessed* with such that somebody else cosigned. *complete* (`completeness`) beside the grade says that the story is
whole. Reads only; hostile content raises nothing but this room's errors.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, create_engine, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from ringfence_audit.blobs import Blobs, FileBlobs
from ringfence_audit.cover import check_cover
from ringfence_audit.errors import InvalidExport
from ringfence_audit.joining import check_streams, check_tiles, joined, roots_of
from ringfence_audit.keyring import Keyring, keyring
from ringfence_audit.merkle import TILE_WIDTH
from ringfence_audit.notes import Checkpoint, VerifierKey, is_signed, parse_note
from ringfence_audit.reading import Digests, Told, read_story
from ringfence_audit.scan import Broken, Scanned, scan
from ringfence_audit.tables import checkpoints, entries, heads
from ringfence_audit.verdict import Grade, Verdict

__all__ = ["Grade", "Verdict", "verify", "verify_file"]


def verify_file(
    path: Path,
    key: VerifierKey,
    *,
    anchors: Sequence[str] = (),
    witnesses: Sequence[VerifierKey] = (),
    processes: int = 1,
    is_evidence_only: bool = False,
    digests: Digests | None = None,
    now: datetime | None = None,
) -> Verdict:
    """Verify a log in a SQLite file, opened read-only. A file that is no log is a *broken* one."""
    if not path.is_file():
        return Verdict(Grade.BROKEN, 0, f"{path.name} does not exist")
    blobs = path.with_name(f"{path.name}-blobs")
    kept = FileBlobs(blobs) if blobs.is_dir() else None
    try:
        with _opened(path) as connection, _pool(processes) as pool:
            job = None if pool is None else _Parallel(pool, path, processes)
            return _verify(
                connection,
                key,
                anchors=anchors,
                witnesses=witnesses,
                blobs=kept,
                parallel=job,
                is_evidence_only=is_evidence_only,
                digests=digests,
                now=now or datetime.now(UTC),
            )
    except (SQLAlchemyError, sqlite3.Error) as error:
        return Verdict(Grade.BROKEN, 0, f"{path.name} cannot be read as a log ({type(error).__name__})")


def verify(
    connection: Connection,
    key: VerifierKey,
    *,
    anchors: Sequence[str] = (),
    witnesses: Sequence[VerifierKey] = (),
    blobs: Blobs | None = None,
    is_evidence_only: bool = False,
    digests: Digests | None = None,
    now: datetime | None = None,
) -> Verdict:
    """Verify the log as this connection sees it. `anchors` are checkpoint notes that were kept elsewhere; `witnesses`
    the keys of those who cosign them; `key` is pinned by whoever asks, and may be any that the log ever had."""
    return _verify(
        connection,
        key,
        anchors=anchors,
        witnesses=witnesses,
        blobs=blobs,
        parallel=None,
        is_evidence_only=is_evidence_only,
        digests=digests,
        now=now or datetime.now(UTC),
    )


def _verify(
    connection: Connection,
    key: VerifierKey,
    *,
    anchors: Sequence[str],
    witnesses: Sequence[VerifierKey],
    blobs: Blobs | None,
    parallel: _Parallel | None,
    is_evidence_only: bool,
    digests: Digests | None,
    now: datetime,
) -> Verdict:
    size = 0
    try:
        size = _claimed_size(connection)
        notes = _notes(connection)
        trusted = _trusted(connection, key)
        kept = [_opened_note(trusted, note, "an anchor") for note in anchors]
        for checkpoint in kept:
            if checkpoint.size > size:
                missing = checkpoint.size - size
                raise Broken(f"the log was cut back: an anchored checkpoint has {missing} more entries")
        known = [_opened_note(trusted, note, f"the checkpoint of {at} entries") for at, note in notes]
        if notes and not trusted.vouches(notes[-1][1]):
            raise Broken("the newest checkpoint is signed by a key that was replaced before the one that you trust")
        signed = [*known, *kept, *(change.signed for change in trusted.rotations)]
        log = joined(_scanned(connection, size, sorted({item.size for item in signed}), parallel), size)
        check_streams(connection, log)
        check_tiles(connection, log)
        roots = roots_of(log, {item.size for item in signed})
        covered = _check_checkpoints(notes, known, roots, size)
        _check_anchors([*kept, *(change.signed for change in trusted.rotations)], roots)
        story = None
        if not is_evidence_only:
            story = read_story(connection, size, blobs=blobs, digests=digests)
        if story is None or story.fault is None:
            check_cover(connection, covered, size, now=now)
    except Broken as broken:
        return Verdict(Grade.BROKEN, size, broken.fault.problem, broken.fault.position)
    if story is not None and story.fault is not None:
        return Verdict(Grade.BROKEN, size, story.fault.problem, story.fault.position)
    anchored = max((item.size for item in kept), default=0)
    verdict = Verdict(_grade(anchors, witnesses, kept), size, covered=covered, anchored=anchored, pruned=log.pruned)
    return verdict if story is None else _with_story(verdict, story)


def _with_story(verdict: Verdict, story: Told) -> Verdict:
    first = story.findings[0] if story.findings else None
    return replace(
        verdict,
        problem="" if first is None else first.problem,
        position=None if first is None else first.position,
        findings=story.findings,
        is_complete=first is None,
        open_calls=story.open_calls,
        absent_bodies=story.absent_bodies,
        not_recomputable=story.not_recomputable,
    )


def _grade(anchors: Sequence[str], witnesses: Sequence[VerifierKey], kept: Sequence[Checkpoint]) -> Grade:
    if any(
        item.size and is_signed(parse_note(note), key)
        for note, item in zip(anchors, kept, strict=True)
        for key in witnesses
    ):
        return Grade.WITNESSED
    return Grade.ANCHORED if any(item.size for item in kept) else Grade.INTACT


def _claimed_size(connection: Connection) -> int:
    size = connection.execute(select(heads.c.size)).scalar() or 0
    if not isinstance(size, int) or size < 0:
        raise Broken("what the log keeps of its size is not a number")
    return size


def _notes(connection: Connection) -> list[tuple[int, str]]:
    found = []
    for size, note in connection.execute(select(checkpoints).order_by(checkpoints.c.size)):
        if not isinstance(note, str) or not isinstance(size, int):
            raise Broken(f"the checkpoint of {size} entries is not text")
        found.append((size, note))
    return found


def _trusted(connection: Connection, key: VerifierKey) -> Keyring:
    try:
        return keyring(connection, key)
    except InvalidExport as error:
        raise Broken(str(error)) from error


def _opened_note(trusted: Keyring, note: str, what: str) -> Checkpoint:
    try:
        return trusted.open(note)
    except InvalidExport as error:
        raise Broken(f"{what} cannot be believed: {error}") from error


# -- ranges --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Parallel:
    pool: ProcessPoolExecutor
    path: Path
    processes: int


def _scanned(connection: Connection, size: int, sizes: Sequence[int], parallel: _Parallel | None) -> Iterator[Scanned]:
    """One range after the other; the last one reaches beyond the claimed size, so that what is too much is seen."""
    newest = connection.execute(select(func.max(entries.c.position))).scalar()
    end = max(size, newest + 1 if isinstance(newest, int) else 0)
    if parallel is None:
        yield scan(connection, 0, end, sizes=sizes)
        return
    step = -(-end // (parallel.processes * TILE_WIDTH)) * TILE_WIDTH or TILE_WIDTH
    ranges = [(start, min(start + step, end)) for start in range(0, max(end, 1), step)]
    yield from parallel.pool.map(partial(_scan_file, parallel.path, sizes), ranges)


def _scan_file(path: Path, sizes: Sequence[int], bounds: tuple[int, int]) -> Scanned:
    with _opened(path) as connection:
        return scan(connection, *bounds, sizes=sizes)


# -- checkpoints ---------------------------------------------------------------------------------------------------


def _check_checkpoints(
    notes: Sequence[tuple[int, str]], known: Sequence[Checkpoint], roots: dict[int, bytes], size: int
) -> int:
    """The size that the newest good checkpoint covers."""
    good = 0
    for (at, _), checkpoint in zip(notes, known, strict=True):
        if checkpoint.size != at:
            raise Broken(f"the checkpoint of {at} entries speaks of {checkpoint.size}")
        if at > size:
            raise Broken(f"a checkpoint covers {at} entries, and only {size} are there", size)
        if roots[at] != checkpoint.root:
            raise Broken(f"one of the entries {good} to {at - 1} is not what a checkpoint was signed over", good)
        good = at
    return good


def _check_anchors(kept: Sequence[Checkpoint], roots: dict[int, bytes]) -> None:
    for checkpoint in sorted(kept, key=lambda item: item.size):
        if roots.get(checkpoint.size) != checkpoint.root:
            raise Broken(f"the log is not the one that was anchored at {checkpoint.size} entries")


@contextmanager
def _opened(path: Path) -> Iterator[Connection]:
    """One snapshot: a log that is being written meanwhile is judged as it stood at this moment."""
    # Beside a log in use lies its write-ahead log; a copy at rest has none, and must not need one to be made.
    mode = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
    address = f"file:{quote(str(path.absolute()))}?{mode}"
    engine = create_engine("sqlite://", creator=lambda: sqlite3.connect(address, uri=True), poolclass=NullPool)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            yield connection
    finally:
        engine.dispose()


@contextmanager
def _pool(processes: int) -> Iterator[ProcessPoolExecutor | None]:
    if processes < 2:
        yield None
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield pool
