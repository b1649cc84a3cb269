"""An export proves its answer to whoever holds the key, offline, and whatever was done to it is found."""

from __future__ import annotations

import base64
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tlog_scales import tlog as oracle
from tlog_scales.signing import Vkey

from ringfence_audit import offline
from ringfence_audit.events import Event, Kind
from ringfence_audit.keys import Signer
from ringfence_audit.notes import VerifierKey
from ringfence_audit.offline import Key, NotProved, parse_key, verify_export
from ringfence_audit.query import Filter
from ringfence_audit.store import SqlStore
from ringfence_audit.tree import TreeReader
from tests.integration.audit.logs import ORIGIN, export_lines, open_log, run_events, seal, write

BODY = "a line of output\n" * 400


@dataclass(frozen=True)
class Exports:
    """One log and what was exported from it: two whole runs, a filtered answer, and the checkpoint before them."""

    vkey: str
    anchor: str
    whole: list[bytes]
    other: list[bytes]
    refused: list[bytes]

    @property
    def keys(self) -> list[Key]:
        return [parse_key(self.vkey)]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exports]:
    signer = Signer.generate(ORIGIN)
    with open_log(tmp_path_factory.mktemp("log") / "log.db", signer) as store:
        write(store, run_events("r1", 9))
        anchor = seal(store)
        write(store, [Event(Kind.OUTCOME, "agent:r2", {"text": BODY, "status": "ok"}, "r2", "r2/0/0")])
        write(store, run_events("r2", 300))
        whole = export_lines(store, Filter(run="r1"), since=[anchor])
        other = export_lines(store, Filter(run="r2"))
        refused = export_lines(store, Filter(refused=True), since=[anchor])
        yield Exports(str(VerifierKey.of_log(ORIGIN, signer.public_key)), anchor, whole, other, refused)


def lines_of(whole: list[bytes], kind: str) -> list[int]:
    return [at for at, line in enumerate(whole) if json.loads(line)["type"] == kind]


def edited(line: bytes, **fields: object) -> bytes:
    return json.dumps({**json.loads(line), **fields}, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def test_without_a_key_of_the_log_nothing_is_proved(exports: Exports) -> None:
    with pytest.raises(NotProved, match="name the log's public key"):
        verify_export(exports.whole, [])
    witness = VerifierKey.of_witness("w.example", Signer.generate("w").public_key)
    with pytest.raises(NotProved, match="name the log's public key"):
        verify_export(exports.whole, [parse_key(str(witness))])


def test_a_log_signed_by_another_key_is_not_proved(exports: Exports) -> None:
    other = VerifierKey.of_log(ORIGIN, Signer.generate(ORIGIN).public_key)
    with pytest.raises(NotProved, match="not signed by a key that you trust"):
        verify_export(exports.refused, [parse_key(str(other))])


@pytest.mark.parametrize("name", ["whole", "other", "refused"])
def test_leaving_out_any_single_line_is_found(exports: Exports, name: str) -> None:
    good: list[bytes] = getattr(exports, name)
    step = max(1, len(good) // 40)
    for at in [*range(0, len(good), step), len(good) - 1]:
        with pytest.raises(NotProved):
            verify_export([*good[:at], *good[at + 1 :]], exports.keys)


def test_a_missing_step_of_a_run_is_named(exports: Exports) -> None:
    third = lines_of(exports.whole, "entry")[3]
    with pytest.raises(NotProved, match="entry 4: 1 entries of the run before it are missing"):
        verify_export([*exports.whole[:third], *exports.whole[third + 1 :]], exports.keys)


def test_the_end_of_a_run_cannot_be_held_back(exports: Exports) -> None:
    last = lines_of(exports.whole, "entry")[-1]
    short = [*exports.whole[:last], *exports.whole[last + 1 :]]
    short[-1] = edited(short[-1], lines=len(short))
    with pytest.raises(NotProved, match="another number of entries"):
        verify_export(short, exports.keys)


def test_a_filtered_answer_cannot_be_thinned_out(exports: Exports) -> None:
    first = lines_of(exports.refused, "entry")[0]
    thin = [*exports.refused[:first], *exports.refused[first + 1 :]]
    thin[-1] = edited(thin[-1], lines=len(thin))
    with pytest.raises(NotProved, match="another number of entries"):
        verify_export(thin, exports.keys)


def test_the_record_of_another_answer_does_not_vouch_for_this_one(exports: Exports) -> None:
    mixed = list(exports.whole)
    mixed[lines_of(mixed, "statement")[0]] = exports.refused[lines_of(exports.refused, "statement")[0]]
    with pytest.raises(NotProved):
        verify_export(mixed, exports.keys)


def test_another_question_over_the_same_answer_is_found(exports: Exports) -> None:
    with pytest.raises(NotProved, match="question"):
        verify_export([edited(exports.refused[0], query={"tool": "shell"}), *exports.refused[1:]], exports.keys)


def test_swapped_and_doubled_entries_are_found(exports: Exports) -> None:
    a, b = lines_of(exports.refused, "entry")[:2]
    swapped = list(exports.refused)
    swapped[a], swapped[b] = swapped[b], swapped[a]
    with pytest.raises(NotProved, match="does not follow"):
        verify_export(swapped, exports.keys)
    with pytest.raises(NotProved, match="does not follow"):
        verify_export([*exports.refused[: a + 1], *exports.refused[a:]], exports.keys)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"null\n",
        b"[]\n",
        b"{}\n",
        b'{"type":"export"}\n',
        b'{"type":"entry","type":"entry"}\n',
        b'{"type":1.5}\n',
        b'{"type":NaN}\n',
        b'{"type":' + b"[" * 5_000 + b"]" * 5_000 + b"}\n",
        b'{"type":' + b"9" * 5_000 + b"}\n",
        b'{"type":"body","sha256":"x","body":"x"}\n',
        b'{"\xc3\xa9":1}\n',
        b"\xff\xfe\n",
        b'{"type":"export","format":"ringfence-export/1","query":{},"checkpoint":"\\ud800"}\n',
        b'{"type":"export","format":"ringfence-export/1","query":{},"checkpoint":"a\\n1\\nAA==\\n\\nx"}\n',
    ],
)
def test_hostile_lines_give_a_clear_error(exports: Exports, line: bytes) -> None:
    for at in (0, 1, len(exports.whole)):
        with pytest.raises(NotProved):
            verify_export([*exports.whole[:at], line, *exports.whole[at:]], exports.keys)
    with pytest.raises(NotProved):
        verify_export([line], exports.keys)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), name=st.sampled_from(["whole", "refused"]))
def test_no_changed_byte_is_ever_proved(exports: Exports, seed: int, name: str) -> None:
    chance = random.Random(seed)
    blob = bytearray(b"".join(getattr(exports, name)))
    for _ in range(chance.choice((1, 1, 1, 3))):
        at = chance.randrange(len(blob))
        match chance.randrange(4):
            case 0:
                blob[at] ^= 1 << chance.randrange(8)
            case 1:
                del blob[at : at + chance.choice((1, 1, 40, 4_000))]
            case 2:
                blob[at:at] = bytes(chance.choices(b'0123456789abcdef"{}[],:\\\n -ntf', k=chance.choice((1, 5))))
            case _:
                other = chance.randrange(len(blob))
                blob[at:at] = blob[other : other + chance.choice((1, 70, 900))]
        if not blob:
            return
    if bytes(blob) != b"".join(getattr(exports, name)):
        with pytest.raises(NotProved):
            verify_export(bytes(blob).splitlines(keepends=True), exports.keys)


def test_an_answer_and_a_whole_run_are_proved(exports: Exports) -> None:
    whole = verify_export(exports.whole, exports.keys)
    assert whole.scope == "the whole run, from its first entry to its end"
    assert (whole.entries, whole.open_calls, whole.absent_bodies) == (20, (), 0)
    refused = verify_export(exports.refused, exports.keys, anchors=[exports.anchor])
    assert (refused.entries, refused.is_anchored) == (2 * 61, True)
    assert verify_export(exports.other, exports.keys).absent_bodies == 0


def test_a_large_value_that_is_not_there_is_said_to_be_absent(exports: Exports) -> None:
    (body,) = lines_of(exports.other, "body")
    without = [*exports.other[:body], *exports.other[body + 1 :]]
    without[-1] = edited(without[-1], lines=len(without))
    assert verify_export(without, exports.keys).absent_bodies == 1
    changed = base64.b64encode(b"other").decode()
    with pytest.raises(NotProved, match="digest"):
        verify_export([*exports.other[:body], edited(exports.other[body], body=changed)], exports.keys)


def test_an_anchor_that_the_log_did_not_grow_from_is_found(exports: Exports, tmp_path: Path) -> None:
    with open_log(tmp_path / "other.db") as store:
        write(store, run_events("r1", 9))
        foreign = seal(store)
    with pytest.raises(NotProved, match="not signed by a key that you trust"):
        verify_export(exports.whole, exports.keys, anchors=[foreign])
    with pytest.raises(NotProved, match="no proof from your anchor"):
        verify_export(exports.other, exports.keys, anchors=[exports.anchor])


def test_a_log_that_was_cut_back_does_not_meet_its_anchor(tmp_path: Path) -> None:
    signer = Signer.generate(ORIGIN)
    keys = [parse_key(str(VerifierKey.of_log(ORIGIN, signer.public_key)))]
    with open_log(tmp_path / "long.db", signer) as store:
        write(store, run_events("r1", 40))
        anchor = seal(store)
    with open_log(tmp_path / "short.db", signer) as store:
        write(store, run_events("r1", 9))
        short = export_lines(store, Filter(run="r1"))
        assert verify_export(short, keys).entries == 20
        with pytest.raises(NotProved, match="is older, or was cut back"):
            verify_export(short, keys, anchors=[anchor])
    with open_log(tmp_path / "forked.db", signer) as store:
        write(store, [*run_events("r1", 40)[:-1], *run_events("r9", 200)])
        forked = export_lines(store, Filter(run="r9"))
        with pytest.raises(NotProved, match="no proof from your anchor"):
            verify_export(forked, keys, anchors=[anchor])


def test_an_independent_checker_agrees_with_every_proof(exports: Exports) -> None:
    key = Vkey.from_string(exports.vkey)
    for whole in (exports.whole, exports.refused):
        head = json.loads(whole[0])["checkpoint"]
        checkpoint = oracle.Checkpoint.from_text(head)
        checkpoint.verify(key)
        for line in map(json.loads, whole):
            if line["type"] in ("entry", "statement"):
                magic, index, *path = (line["proof"] + head).split("\n\n")[0].split("\n")
                assert magic == "c2sp.org/tlog-proof@v1"
                nodes = [base64.b64decode(step) for step in path]
                proof = oracle.InclusionProof(int(index.removeprefix("index ")), checkpoint.size, nodes)
                proof.check(offline.leaf_hash(line["entry"].encode()), checkpoint.root_hash)
            elif line["type"] == "consistency":
                old = oracle.Checkpoint.from_text(line["checkpoint"])
                first, *path = line["proof"].split("\n\n")[0].split("\n")
                nodes = [base64.b64decode(step) for step in path]
                growth = oracle.ConsistencyProof(int(first.removeprefix("old ")), checkpoint.size, nodes)
                growth.check(old.root_hash, checkpoint.root_hash)


def test_every_proof_of_a_log_interoperates_at_every_size(tmp_path: Path) -> None:
    with open_log(tmp_path / "log.db") as store:
        write(store, run_events("r1", 150))
        for old, new in [(1, 1), (1, 2), (3, 7), (255, 256), (256, 257), (128, 300), (256, 302), (301, 302)]:
            roots, path = store.read_now(lambda c, o=old, n=new: _growth(TreeReader(c), o, n))  # type: ignore[misc]  # bound per turn
            oracle.ConsistencyProof(old, new, path).check(*roots)
            assert offline.is_consistent(old, new, roots=roots, path=path)


def _growth(tree: TreeReader, old: int, new: int) -> tuple[tuple[bytes, bytes], list[bytes]]:
    return (tree.root(old), tree.root(new)), tree.consistency(old, new)


def test_the_verifier_runs_alone(exports: Exports, tmp_path: Path) -> None:
    alone = tmp_path / "ringfence_verify.py"
    shutil.copyfile(offline.__file__, alone)
    (tmp_path / "export.jsonl").write_bytes(b"".join(exports.refused))
    (tmp_path / "anchor").write_text(exports.anchor)
    (tmp_path / "key").write_text(exports.vkey + "\n")
    command = [sys.executable, "-I", str(alone), str(tmp_path / "export.jsonl"), "--key", str(tmp_path / "key")]
    done = subprocess.run([*command, "--anchor", str(tmp_path / "anchor")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("PROVED: 122 entries of test.example/log")
    (tmp_path / "export.jsonl").write_bytes(b"".join(exports.refused[:-1]))
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert (done.returncode, json.loads(done.stdout)["is_proved"]) == (8, False)
    missing = subprocess.run([*command[:3], "absent", "--key", exports.vkey], capture_output=True, check=False)
    assert missing.returncode == 2


def test_the_verifier_is_small_and_imports_nothing_of_ours() -> None:
    source = Path(offline.__file__).read_text()
    assert len(source.splitlines()) < 600
    imports = [line.split()[1].split(".")[0] for line in source.splitlines() if line.startswith(("import ", "from "))]
    assert set(imports) <= {*sys.stdlib_module_names, "cryptography", "__future__"}


def test_entries_after_the_end_of_a_run_are_part_of_it(tmp_path: Path) -> None:
    signer = Signer.generate(ORIGIN)
    keys = [parse_key(str(VerifierKey.of_log(ORIGIN, signer.public_key)))]
    with open_log(tmp_path / "log.db", signer) as store:
        _late(store)
        whole = export_lines(store, Filter(run="r1"))
    assert verify_export(whole, keys).entries == 7
    late = lines_of(whole, "entry")[-1]
    short = [*whole[:late], *whole[late + 1 :]]
    short[-1] = edited(short[-1], lines=len(short))
    with pytest.raises(NotProved):
        verify_export(short, keys)


def _late(store: SqlStore) -> None:
    write(store, run_events("r1", 2))
    write(store, [Event(Kind.DELIVERY, "person:ana", {"branch": "main"}, "r1", "", "person:ana")])
