from __future__ import annotations

from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from ringfence_audit.blobs import BLOB_LIMIT
from ringfence_audit.bodies import escape, references, restore, take_out, take_out_fields
from ringfence_audit.canonical import encode
from ringfence_audit.events import JsonValue

_LARGE = "é" * BLOB_LIMIT
_TEXT = st.sampled_from(["", "x", "$blob", _LARGE, _LARGE + "y"]) | st.text(st.characters(codec="utf-8"), max_size=5)
_KEYS = st.sampled_from(["a", "b", "$blob", "$json", "$ref", "sha256"])
_JSON: st.SearchStrategy[JsonValue] = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=8,
)


def _nothing(_: str) -> None:
    return None


def test_data_that_poses_as_a_reference_is_kept_as_text() -> None:
    forged: JsonValue = {"x": {"$blob": {"form": "text", "sha256": "0" * 64, "size": 1}}}
    stored = escape(forged)
    assert references(stored) == []
    assert restore(stored, _nothing) == forged


def test_a_body_that_is_gone_leaves_its_reference() -> None:
    blobs: dict[str, bytes] = {}
    stored = take_out({"x": _LARGE}, blobs)
    assert restore(stored, _nothing) == stored


@given(_JSON)
def test_what_is_taken_out_comes_back_and_nothing_large_stays(value: JsonValue) -> None:
    blobs: dict[str, bytes] = {}
    data: JsonValue = {"data": value, "more": [value]}
    stored = take_out_fields(take_out(escape(data), blobs), blobs)
    assert restore(stored, lambda digest: blobs.get(digest)) == data
    assert len(encode(stored)) <= 4 * BLOB_LIMIT
    assert {sha256(body).hexdigest(): body for body in blobs.values()} == blobs
