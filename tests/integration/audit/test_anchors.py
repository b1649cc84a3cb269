"""Anchors keep what the service cannot take back: a git server that refuses rewriting, and a witness over HTTP."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ringfence.anchoring import anchor, fetched, load_sinks, probes, witness_keys
from ringfence.errors import Mistake
from ringfence.settings import LOG_ORIGIN, Settings
from ringfence_audit.anchor_git import GitSink
from ringfence_audit.anchor_witness import WitnessSink
from ringfence_audit.anchors import Sink, SinkRefused, SinkUnreachable
from ringfence_audit.errors import InvalidExport
from ringfence_audit.keys import Signer
from ringfence_audit.notes import Checkpoint, VerifierKey, parse_note, sign_checkpoint
from ringfence_audit.proofs import consistency_text
from ringfence_audit.store import SqlStore
from ringfence_audit.verify import Grade, verify_file
from ringfence_audit.witness import Witness, server
from tests.integration.audit.logs import copy_of, run_events, write

SIGNER = Signer.generate(LOG_ORIGIN)
KEY = VerifierKey.of_log(LOG_ORIGIN, SIGNER.public_key)
WITNESS = Signer.generate("witness.example/w1")
WITNESS_KEY = VerifierKey.of_witness("witness.example/w1", WITNESS.public_key)


def opened(path: Path) -> SqlStore:
    store = SqlStore.open(f"sqlite:///{path}", signer=SIGNER)
    store.create_schema()
    return store


def git_server(folder: Path, *, is_strict: bool = True) -> str:
    """A bare repository; a strict one refuses rewriting."""
    subprocess.run(["git", "init", "--quiet", "--bare", str(folder)], check=True)
    for option in ("receive.denyNonFastForwards", "receive.denyDeletes"):
        subprocess.run(["git", "-C", str(folder), "config", option, str(is_strict).lower()], check=True)
    return str(folder)


@contextmanager
def witness_server(folder: Path) -> Iterator[str]:
    clock = iter(range(1_800_000_000, 1_900_000_000))
    witness = Witness(WITNESS, {LOG_ORIGIN: KEY}, folder, clock=lambda: float(next(clock)))
    http = server(witness, "127.0.0.1", 0)
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}"
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def test_a_git_server_that_lets_itself_be_rewritten_is_no_anchor(tmp_path: Path) -> None:
    sink = GitSink("lax", git_server(tmp_path / "lax", is_strict=False), tmp_path / "own")
    with opened(tmp_path / "log.db") as store:
        write(store, run_events("r1", 3))
        anchor(store, [sink])
        held = sink.fetch(LOG_ORIGIN)
        tried = probes([sink])
    assert [probe.is_refused for _, probe in tried] == [False, False]
    assert sink.fetch(LOG_ORIGIN) == held


def test_a_git_server_that_refuses_rewriting_is_one(tmp_path: Path) -> None:
    sink = GitSink("office", git_server(tmp_path / "office"), tmp_path / "own")
    with pytest.raises(SinkUnreachable, match="holds nothing yet"):
        sink.probe(LOG_ORIGIN)
    with opened(tmp_path / "log.db") as store:
        for number in range(3):
            write(store, run_events(f"r{number}", 3))
            anchor(store, [sink])
        assert anchor(store, [sink])[0].problem == ""
        tried = probes([sink])
        notes = fetched(store, [GitSink("again", str(tmp_path / "office"), tmp_path / "elsewhere")])
    assert [probe.is_refused for _, probe in tried] == [True, True]
    assert len(notes) == 3
    verdict = verify_file(tmp_path / "log.db", KEY, anchors=notes)
    assert (verdict.grade, verdict.is_good, verdict.unanchored) == (Grade.ANCHORED, True, 0)


@pytest.mark.parametrize("remote", ["--upload-pack=touch x", "-x"])
def test_a_remote_that_would_be_an_option_is_refused(tmp_path: Path, remote: str) -> None:
    with pytest.raises(InvalidExport):
        GitSink("x", remote, tmp_path)


@pytest.mark.parametrize("remote", ["ext::sh -c true", "absent/repository"])
def test_a_remote_that_cannot_be_used_is_unreachable(tmp_path: Path, remote: str) -> None:
    with pytest.raises(SinkUnreachable):
        GitSink("x", remote, tmp_path / "own").fetch(LOG_ORIGIN)


def test_a_log_rolled_back_to_an_older_head_is_refused_by_both(tmp_path: Path) -> None:
    git = GitSink("office", git_server(tmp_path / "office"), tmp_path / "own")
    with witness_server(tmp_path / "w") as url, opened(tmp_path / "log.db") as store:
        write(store, run_events("r1", 3))
        old = copy_of(tmp_path / "log.db", tmp_path / "old.db")
        shutil.copytree(tmp_path / "log.db-blobs", tmp_path / "old.db-blobs")
        write(store, run_events("r2", 30))
        sinks: list[Sink] = [git, WitnessSink("w1", url, WITNESS_KEY)]
        assert [item.problem for item in anchor(store, sinks)] == ["", ""]
        notes = fetched(store, sinks)
        with opened(old) as rolled:
            for sink in sinks:
                with pytest.raises(SinkRefused, match="has only 8"):
                    anchor(rolled, [sink])
        assert "the log was cut back" in verify_file(old, KEY, anchors=notes).text
        assert verify_file(tmp_path / "log.db", KEY, anchors=notes, witnesses=[WITNESS_KEY]).grade is Grade.WITNESSED


def test_another_history_of_the_same_key_is_refused_by_both(tmp_path: Path) -> None:
    git = GitSink("office", git_server(tmp_path / "office"), tmp_path / "own")
    with witness_server(tmp_path / "w") as url, opened(tmp_path / "log.db") as store:
        sinks: list[Sink] = [git, WitnessSink("w1", url, WITNESS_KEY)]
        write(store, run_events("r1", 3))
        anchor(store, sinks)
        notes = fetched(store, sinks)
        with opened(tmp_path / "forged.db") as forged:
            write(forged, run_events("r9", 3))
            for sink in sinks:
                with pytest.raises(SinkRefused):
                    anchor(forged, [sink])
            write(forged, run_events("r8", 3))
            with pytest.raises(SinkRefused, match="did not grow"):
                anchor(forged, sinks[1:])
        assert "not the one that was anchored" in verify_file(tmp_path / "forged.db", KEY, anchors=notes).text


def test_a_witness_refuses_whatever_is_not_growth(tmp_path: Path) -> None:
    witness = Witness(WITNESS, {LOG_ORIGIN: KEY}, tmp_path, clock=lambda: 1_800_000_000.0)
    note = sign_checkpoint(Checkpoint(LOG_ORIGIN, 5, bytes(32)), SIGNER)
    stranger = sign_checkpoint(Checkpoint("other.example/log", 5, bytes(32)), Signer.generate("other.example/log"))
    forged = sign_checkpoint(Checkpoint(LOG_ORIGIN, 5, bytes(32)), Signer.generate(LOG_ORIGIN))
    for body, status in (
        (b"", 400),
        (b"\xff", 400),
        (b"old -1\n\n" + note.encode(), 400),
        (b"old 6\n\n" + note.encode(), 400),
        (consistency_text(0, (), stranger).encode(), 404),
        (consistency_text(0, (), forged).encode(), 403),
        (consistency_text(4, (), note).encode(), 409),
        (consistency_text(0, (bytes(32),), note).encode(), 422),
        (consistency_text(0, (), note).encode(), 200),
        (consistency_text(0, (), note).encode(), 409),
        (consistency_text(5, (), sign_checkpoint(Checkpoint(LOG_ORIGIN, 5, b"x" * 32), SIGNER)).encode(), 409),
        (
            consistency_text(5, (bytes(32),), sign_checkpoint(Checkpoint(LOG_ORIGIN, 9, b"x" * 32), SIGNER)).encode(),
            422,
        ),
        (consistency_text(5, (), note).encode(), 200),
    ):
        assert witness.add_checkpoint(body).status == status, body
    assert witness.checkpoint("../../etc/passwd").status == 404


def test_a_witness_is_put_to_the_test(tmp_path: Path) -> None:
    with witness_server(tmp_path / "w") as url, opened(tmp_path / "log.db") as store:
        sink = WitnessSink("w1", url, WITNESS_KEY)
        assert sink.fetch(LOG_ORIGIN) == ()
        write(store, run_events("r1", 3))
        anchor(store, [sink])
        assert [probe.is_refused for _, probe in probes([sink])] == [True, True]
        impostor = WitnessSink("w1", url, VerifierKey.of_witness("witness.example/w1", bytes(32)))
        with pytest.raises(SinkUnreachable, match="not its own"):
            impostor.fetch(LOG_ORIGIN)
        assert anchor(store, [impostor])[0].problem != ""
        (note,) = sink.fetch(LOG_ORIGIN)
        assert len(parse_note(note).signatures) == 2
    with opened(tmp_path / "log.db") as store:
        assert "does not answer" in anchor(store, [sink])[0].problem


def test_anchors_are_read_from_one_file(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", config=tmp_path)
    assert load_sinks(settings) == []
    office = f"{{name: office, git: {tmp_path}/x}}"
    form = f"anchors:\n  - {office}\n  - {{name: w1, witness: 'http://w.example', key: '{WITNESS_KEY}'}}\n"
    (tmp_path / "anchors.yaml").write_text(form)
    sinks = load_sinks(settings)
    assert ([sink.name for sink in sinks], witness_keys(sinks)) == (["office", "w1"], [WITNESS_KEY])
    for bad in ("anchors: 3", "anchors: [{name: x}]", form.replace("w1", "office"), "{", form.replace("+", "")):
        (tmp_path / "anchors.yaml").write_text(bad)
        with pytest.raises(Mistake):
            load_sinks(settings)
