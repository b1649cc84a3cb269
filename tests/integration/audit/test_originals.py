"""What redaction takes out is kept sealed, so that a digest can be recomputed, and guessed by nobody."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest

from ringfence_audit.errors import InvalidExport
from ringfence_audit.events import Event, JsonValue, Kind
from ringfence_audit.facts import Entry
from ringfence_audit.keys import KeyUnusable, Signer
from ringfence_audit.notes import VerifierKey
from ringfence_audit.originals import Box
from ringfence_audit.reading import Digests
from ringfence_audit.redaction import Redactor
from ringfence_audit.store import SqlStore
from ringfence_audit.verify import verify_file
from ringfence_tools.digest import recomputed
from tests.integration.audit.logs import ORIGIN, copy_of, write

SIGNER = Signer.generate(ORIGIN)
KEY = VerifierKey.of_log(ORIGIN, SIGNER.public_key)
SECRET = "hunter22-and-more"


def recompute(entry: Entry, data: Mapping[str, JsonValue]) -> str:
    return recomputed(entry.actor, entry.on_behalf_of, data)


def intent(number: int, command: str) -> Event:
    data: dict[str, JsonValue] = {
        "tool": "shell",
        "arguments": {"command": command},
        "accesses": [],
        "sealed": {"/workspace/b": "22", "/workspace/a": "11"},
        "schema": "ab" * 32,
        "nonce": f"{number:032x}",
    }
    digest = recomputed("agent:r1", "person:ana", data)
    return Event(Kind.INTENT, "agent:r1", {**data, "digest": digest}, "r1", f"r1/{number}/0", "person:ana")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    redactor = Redactor(originals=Box.load_or_create(tmp_path / "originals.key"))
    with SqlStore.open(f"sqlite:///{tmp_path}/live.db", signer=SIGNER, redactor=redactor) as store:
        store.create_schema()
        write(store, [intent(0, "ls"), intent(1, f"export DB_PASSWORD={SECRET}"), intent(2, "pwd")])
    shutil.copytree(tmp_path / "live.db-blobs", tmp_path / "log.db-blobs")
    return copy_of(tmp_path / "live.db", tmp_path / "log.db")


def body_of(log: Path) -> Path:
    (body,) = [path for path in log.with_name("log.db-blobs").rglob("*") if path.is_file()]
    return body


def test_neither_the_secret_nor_its_nonce_is_left_in_the_open(log: Path) -> None:
    everything = log.read_bytes() + body_of(log).read_bytes()
    assert SECRET.encode() not in everything
    with closing(sqlite3.connect(log)) as connection:
        raws = [json.loads(raw) for (raw,) in connection.execute("SELECT entry FROM audit_entries ORDER BY position")]
    assert ["nonce" in raw["event"]["data"] for raw in raws[:3]] == [True, False, True]


def test_another_key_opens_no_original(log: Path) -> None:
    with pytest.raises(InvalidExport, match="another key"):
        Box(bytes(32)).open(body_of(log).read_bytes())
    log.with_name("originals.key").chmod(0o644)
    with pytest.raises(KeyUnusable, match="open to others"):
        Box.load_or_create(log.with_name("originals.key"))


def test_a_digest_whose_original_is_missing_is_said_to_be_not_recomputable(log: Path) -> None:
    digests = Digests(recompute, Box.load_or_create(log.with_name("originals.key")))
    assert verify_file(log, KEY, digests=Digests(recompute)).not_recomputable == 1
    assert verify_file(log, KEY, digests=digests).not_recomputable == 0
    body_of(log).unlink()
    verdict = verify_file(log, KEY, digests=digests)
    assert (verdict.is_good, verdict.not_recomputable) == (True, 1)
    assert "1 digests not recomputable" in verdict.text


def test_a_changed_original_is_found(log: Path) -> None:
    body = body_of(log)
    body.write_bytes(body.read_bytes()[:-1] + b"x")
    digests = Digests(recompute, Box.load_or_create(log.with_name("originals.key")))
    assert verify_file(log, KEY, digests=digests).position == 1


def test_an_intent_that_announces_other_bytes_than_its_digest_covers_is_found(tmp_path: Path) -> None:
    with SqlStore.open(f"sqlite:///{tmp_path}/log.db", signer=SIGNER) as store:
        store.create_schema()
        good = intent(0, "ls")
        write(
            store,
            [Event(good.kind, good.actor, {**good.data, "arguments": {"command": "rm"}}, "r1", "r1/0/0", "person:ana")],
        )
    verdict = verify_file(tmp_path / "log.db", KEY, digests=Digests(recompute))
    assert "entry 0: its digest is not that of what it says would run" in verdict.text


def test_an_agent_cannot_pose_as_a_sealed_original(tmp_path: Path) -> None:
    fake: dict[str, JsonValue] = {"$original": {"sha256": sha256(b"").hexdigest()}, "text": "x"}
    with SqlStore.open(f"sqlite:///{tmp_path}/log.db", signer=SIGNER) as store:
        store.create_schema()
        write(store, [Event(Kind.OUTCOME, "agent:r1", fake, "r1")])
    with closing(sqlite3.connect(tmp_path / "log.db")) as connection:
        (raw,) = connection.execute("SELECT entry FROM audit_entries").fetchone()
    assert set(json.loads(raw)["event"]["data"]) == {"$json"}
