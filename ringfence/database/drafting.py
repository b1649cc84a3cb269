"""For developers: writes the next migration from the tables in code.

    python -m ringfence.database.drafting "what changed"
    python -m ringfence.database.drafting --again        # the newest one anew, while no release has it

It compares the tables with an empty SQLite database that has walked through the migrations before. Read what it wrote:
it sees columns, tables and indexes, not what must become of rows. A new number is to be added to `version.KNOWN`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from ringfence.database.scripts import configuration
from ringfence.database.upgrading import migrate
from ringfence.database.version import HEAD, KNOWN


def draft(subject: str) -> Path:
    """Write the migration after the last one and return its path."""
    return _write(f"{len(KNOWN) + 1:04d}", subject, before=HEAD)


def draft_again() -> Path:
    """Write the newest migration anew, under its name, and return its path."""
    script = ScriptDirectory.from_config(configuration()).get_revision(HEAD)
    path = Path(script.path)
    subject = re.sub(r"^\d+_|\.py$", "", path.name).replace("_", " ")
    path.unlink()
    written = _write(HEAD, subject, before=KNOWN[-2] if len(KNOWN) > 1 else None)
    return written.rename(path)


def _write(number: str, subject: str, *, before: str | None) -> Path:
    with create_engine("sqlite://").begin() as connection:
        if before is not None:
            migrate(connection, target=before)
        config = configuration()
        config.attributes["connection"] = connection
        config.attributes["is_altering"] = before is not None
        script = command.revision(config, subject, autogenerate=True, rev_id=number)
    if script is None or isinstance(script, list):
        raise TypeError("Alembic wrote no migration, or several")
    path = Path(script.path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.lstrip().startswith("# ###")))
    return path


if __name__ == "__main__":
    words = sys.argv[1:]
    name = re.sub(r"[^a-z0-9 ]", "", " ".join(words).lower()) or "change"
    sys.stdout.write(f"{draft_again() if words == ['--again'] else draft(name)}\n")
