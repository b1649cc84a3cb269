from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence_audit.errors import InvalidExport
from ringfence_audit.keys import KeyUnusable, Signer
from ringfence_audit.notes import (
    Checkpoint,
    VerifierKey,
    cosign,
    is_signed,
    open_checkpoint,
    parse_checkpoint,
    parse_note,
    sign_checkpoint,
)

_SIGNER = Signer.generate("log.example.org/one")
_KEY = VerifierKey.of_log(_SIGNER.origin, _SIGNER.public_key)
_CHECKPOINT = Checkpoint(_SIGNER.origin, 7, bytes(range(32)))
_NOTE = sign_checkpoint(_CHECKPOINT, _SIGNER)


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n\n",
        "x\n1\nAA==\n",
        _NOTE[:-1],
        _NOTE.replace("— ", "- "),
        _NOTE.replace("\n\n", "\n"),
        _NOTE + "— x !!\n",
        _NOTE.replace("7\n", "7\r\n"),
        "x" * 100_000,
    ],
    ids=range(9),
)
def test_a_malformed_note_is_refused(note: str) -> None:
    with pytest.raises(InvalidExport):
        open_checkpoint(note, _KEY)


@given(st.text(max_size=300))
def test_any_text_is_parsed_or_refused_with_our_error(text: str) -> None:
    for parse in (parse_note, parse_checkpoint, VerifierKey.parse):
        try:
            parse(text)
        except InvalidExport:
            continue


@pytest.mark.parametrize("size", ["07", "-1", "1.0", "", "٣", "9" * 16])
def test_a_size_that_is_no_plain_number_is_refused(size: str) -> None:
    with pytest.raises(InvalidExport):
        parse_checkpoint(f"x\n{size}\n{base64.b64encode(bytes(32)).decode()}\n")


def test_a_note_by_another_key_or_for_another_log_is_refused() -> None:
    other = Signer.generate(_SIGNER.origin)
    with pytest.raises(InvalidExport, match="not signed"):
        open_checkpoint(_NOTE, VerifierKey.of_log(other.origin, other.public_key))
    stranger = sign_checkpoint(Checkpoint("elsewhere.example.org", 7, bytes(32)), _SIGNER)
    with pytest.raises(InvalidExport, match="speaks for"):
        open_checkpoint(stranger, _KEY)


@given(st.integers(0, len(_NOTE.encode()) - 1), st.integers(1, 255))
def test_a_note_with_one_changed_byte_never_says_something_else(place: int, change: int) -> None:
    raw = bytearray(_NOTE.encode())
    raw[place] ^= change
    try:
        opened = open_checkpoint(raw.decode(), _KEY)
    except (InvalidExport, UnicodeDecodeError):
        return
    assert opened == _CHECKPOINT


def test_a_signed_note_says_what_was_signed() -> None:
    assert open_checkpoint(_NOTE, _KEY) == _CHECKPOINT
    assert VerifierKey.parse(str(_KEY)) == _KEY


def test_a_witness_signs_beside_the_log_and_is_verified_by_its_own_key() -> None:
    witness = Signer.generate("witness.example.net")
    key = VerifierKey.of_witness(witness.origin, witness.public_key)
    both = cosign(_NOTE, witness, seconds=1_700_000_000)
    assert open_checkpoint(both, _KEY) == open_checkpoint(both, key) == _CHECKPOINT
    assert not is_signed(parse_note(_NOTE), key)


@pytest.mark.parametrize("origin", ["", "a b", "a+b", "a\nb"])
def test_an_origin_that_would_break_a_note_is_refused(origin: str) -> None:
    with pytest.raises(KeyUnusable):
        Signer.generate(origin)
