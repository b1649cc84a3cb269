"""Hostile text becomes visible text."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfence_tools.card_text import LONG_GAP, shorten, twin_of, visible, visible_lines

UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Mn", "Me", "Mc"}
REORDERING = {"R", "AL", "AN", "RLE", "RLO", "RLI", "LRE", "LRO", "LRI", "PDF", "PDI", "FSI"}


def unsafe_in(text: str) -> list[str]:
    return [
        letter
        for letter in text
        if unicodedata.category(letter) in UNSAFE or unicodedata.bidirectional(letter) in REORDERING
    ]


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("a\x1b[31mb", "a[U+001B][31mb"),
        ("a\u202eb", "a[U+202E]b"),
        ("a\u200bb", "a[U+200B]b"),
        ("a\u00a0b", "a[U+00A0]b"),
        ("a\rb", "a<CR>b"),
        ("a\nb", "a<LF>b"),
        ("a\tb", "a<TAB>b"),
        ("a" + " " * 180 + "b", "a<180 SPACES>b"),
        ("pyp\u0456.org", "pyp[U+0456].org"),
        ("\u05e9", "[U+05E9]"),
        ("\ud800", "[U+D800]"),
        ("\U000e0041", "[U+E0041]"),
        ("a\u0301\u0301", "a[U+0301][U+0301]"),
        ("\u2800", "[U+2800]"),
        ("\x7f\x9b", "[U+007F][U+009B]"),
        ("abc\n", "abc<LF>"),
    ],
)
def test_what_hides_is_shown(hostile: str, shown: str) -> None:
    assert visible(hostile) == shown


@pytest.mark.parametrize("imitation", ["[U+0456]", "<LF>", "<180 SPACES>", "<CR>", "<TAB>", "<2 TABS>"])
def test_text_cannot_pass_for_one_of_our_marks(imitation: str) -> None:
    assert visible(imitation) != imitation
    assert visible(imitation).startswith(("[U+005B]", "[U+003C]"))


@pytest.mark.parametrize(
    "plain", ["", "ls -la | grep x > y && [ -f z ]", "café", "日本語", "a  b", " " * (LONG_GAP - 1) + "x"]
)
def test_honest_text_is_left_as_it_is(plain: str) -> None:
    assert visible(plain) == plain


def test_prose_in_another_alphabet_stays_readable_and_a_mixed_word_does_not() -> None:
    assert visible("Привет", is_exact=False) == "Привет"
    assert visible("p\u0430ypal", is_exact=False) == "p[U+0430]ypal"


def test_a_final_newline_shows() -> None:
    assert visible_lines("a\nb") == ["a<LF>", "b"]
    assert visible_lines("a\n") == ["a<LF>"]
    assert visible_lines("") == [""]


def test_shortened_text_says_how_long_it_was() -> None:
    assert shorten("x" * 50, 50) == "x" * 50
    assert shorten("x" * 51, 50).endswith("… (51 characters)")
    assert len(shorten("x" * 500, 50)) == 50


def test_a_twin_is_what_people_read() -> None:
    assert twin_of("pyp\u0456.org") == "pypi.org"
    assert twin_of("\uff50\uff59") == "py"


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=80), st.booleans())
def test_nothing_unsafe_is_ever_left(text: str, is_exact: bool) -> None:
    assert unsafe_in(visible(text, is_exact=is_exact)) == []


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30), st.text(max_size=30))
def test_two_different_texts_never_look_the_same(first: str, second: str) -> None:
    if first != second:
        assert visible(first) != visible(second)
