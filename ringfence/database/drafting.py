"""For developers: `python -m ringfence.database.drafting "what changed"` writes the next migration from the tables.

It compares the tables in code with an empty SQLite database that has walked through the migrations so far. Read what
it wrote: it sees columns, tables and indexes, not what must become of rows. Then add its number to `version.KNOWN`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from alembic import command
from sqlalchemy import create_engine

from ringfence.database.scripts import configuration
from ringfence.database.upgrading import migrate
from ringfence.database.version import KNOWN


def draft(subject: str) -> str:
    """Write the next migration and return its path."""
    number = f"{len(KNOWN) + 1:04d}"
    with create_engine("sqlite://").begin() as connection:
        migrate(connection)
        config = configuration()
        config.attributes["connection"] = connection
        script = command.revision(config, subject, autogenerate=True, rev_id=number)
    if script is None or isinstance(script, list):
        raise TypeError("Alembic wrote no migration, or several")
    path = Path(script.path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "Alembic ###" not in line and "Alembic - please" not in line))
    return str(path)


if __name__ == "__main__":
    sys.stdout.write(draft(re.sub(r"[^a-z0-9 ]", "", " ".join(sys.argv[1:]).lower()) or "change") + "\n")
