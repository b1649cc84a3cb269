"""The verdict on a log, or on a copy of one, as a person at this machine can reach it."""

from __future__ import annotations

from pathlib import Path

from ringfence.settings import LOG_ORIGIN, Settings
from ringfence_audit.keys import Signer
from ringfence_audit.notes import VerifierKey
from ringfence_audit.store import SqlStore
from ringfence_audit.verify import Verdict, verify, verify_file


def verdict_of_file(settings: Settings, file: Path) -> Verdict:
    """Verify a log file with this machine's own key: what it proves is *intact, not anchored*, and no more."""
    signer = Signer.load(settings.key_file, LOG_ORIGIN)
    return verify_file(file, VerifierKey.of_log(LOG_ORIGIN, signer.public_key))


def verdict_of_log(settings: Settings, store: SqlStore) -> Verdict:
    """Verify the live log in the same way, wherever it is: a file is opened anew and read-only."""
    if settings.database_url is None:
        return verdict_of_file(settings, settings.database)
    key = VerifierKey.of_log(LOG_ORIGIN, store.signer.public_key)
    return store.read_now(lambda connection: verify(connection, key))
