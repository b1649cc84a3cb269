from __future__ import annotations

from types import MappingProxyType

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from ringfence_audit.canonical import MAX_DEPTH, MAX_INTEGER, Survey, encode, plain
from ringfence_audit.errors import InvalidEvent
from ringfence_audit.events import JsonValue

_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
_KEYS = st.text(st.characters(max_codepoint=127), max_size=8)
_JSON: st.SearchStrategy[JsonValue] = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | _TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(_KEYS, inner, max_size=5),
    max_leaves=20,
)


@pytest.mark.parametrize(
    "value",
    [1.5, float("nan"), b"x", object, {1: "x"}, {"ü": 1}, {"a": [{"b": 0.0}]}, {"a": {1, 2}}],
    ids=repr,
)
def test_a_value_without_a_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(InvalidEvent):
        Survey().walk(value)


@pytest.mark.parametrize("value", [MAX_INTEGER + 1, -MAX_INTEGER - 1, 2**70, "\ud800"], ids=repr)
def test_huge_integers_and_lone_surrogates_are_refused(value: JsonValue) -> None:
    with pytest.raises(InvalidEvent):
        encode(value)


def test_bottomless_nesting_is_refused_without_exhausting_the_stack() -> None:
    value: list[object] = []
    for _ in range(5 * MAX_DEPTH):
        value = [value]
    with pytest.raises(InvalidEvent, match="nests deeper"):
        Survey().walk(value)


@given(_JSON)
def test_the_fast_encoding_equals_rfc_8785(value: JsonValue) -> None:
    Survey().walk(value)
    assert encode(value) == rfc8785.dumps(value)


def test_control_characters_are_escaped_as_rfc_8785_says() -> None:
    text = "".join(map(chr, range(0x80))) + "\u2028\u2029\uffff\U0001f600"
    assert encode(text) == rfc8785.dumps(text)


def test_mappings_and_sequences_of_other_types_become_plain() -> None:
    odd: JsonValue = MappingProxyType({"a": (1, "x", MappingProxyType({"b": True}))})
    survey = Survey()
    survey.walk(odd)
    assert not survey.plain
    assert plain(odd) == {"a": [1, "x", {"b": True}]}
