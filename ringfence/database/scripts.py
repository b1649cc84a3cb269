"""Where Alembic finds the migrations: beside this file, in the installed package as in a checkout."""

from __future__ import annotations

from pathlib import Path

from alembic.config import Config

FOLDER = Path(__file__).resolve().parent / "migrations"


def configuration() -> Config:
    """There is no alembic.ini: the database is the one that the caller has open (`attributes["connection"]`)."""
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
