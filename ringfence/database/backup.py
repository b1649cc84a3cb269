"""A copy of a live state folder: the database as it stood at one moment, then the files that it speaks of.

In this order, since a body lies on disk before its entry does: every file that the copied database names is there to
be copied, and files that are newer harm nobody. Keys are left out, so that who gets hold of a copy can forge nothing.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from ringfence.errors import Mistake, Unavailable
from ringfence.settings import Settings
from ringfence.verifying import verdict_of_file
from ringfence_audit.verify import Verdict


def back_up(settings: Settings, target: Path) -> Verdict:
    """Copy the state into the new folder `target`, while workers go on, and verify the copy's log.

    The copy is laid out as a state folder is. Raises `Mistake` where there is no file to copy or `target` exists, and
    `Unavailable` where it could not be written.
    """
    if settings.database_url is not None:
        raise Mistake(
            "the state is in PostgreSQL, which is backed up with its own tools", fix="See docs/operations.md: pg_dump"
        )
    if not settings.database.exists():
        raise Mistake(f"there is nothing to back up in {settings.home}", fix="Set RINGFENCE_HOME to the state folder")
    try:
        target.mkdir(mode=0o700, parents=True)
    except FileExistsError as error:
        raise Mistake(f"{target} exists already", fix="Name a new folder") from error
    try:
        _copy_database(settings.database, target / settings.database.name)
        for folder in (settings.blobs, settings.runs):
            if folder.exists():
                shutil.copytree(folder, target / folder.name, symlinks=True, copy_function=_copy_if_there)
    except (OSError, sqlite3.Error, shutil.Error) as error:
        raise Unavailable(f"the backup could not be written ({error})", fix=f"Remove {target} and try again") from error
    return verdict_of_file(settings, target / settings.database.name)


def _copy_database(live: Path, copy: Path) -> None:
    """By SQLite's own online backup, in one step: it sees one moment, and writers wait for nothing."""
    copy.touch(mode=0o600)
    with (
        closing(sqlite3.connect(live, timeout=30)) as source,
        closing(sqlite3.connect(copy)) as target,
    ):
        source.execute("PRAGMA query_only = ON")
        source.backup(target)


def _copy_if_there(source: str, target: str) -> str:
    """Drafts come and go in a live folder; what the database names stays."""
    try:
        return shutil.copy2(source, target, follow_symlinks=False)
    except FileNotFoundError:
        return target
