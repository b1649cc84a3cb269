from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from ringfence.escaping import line, visible


def test_an_escape_sequence_never_reaches_the_terminal() -> None:
    assert visible("\x1b[2Jgone") == "[U+001B][2Jgone"


def test_a_right_to_left_override_is_spelled_out() -> None:
    assert visible("a\u202etxt.exe") == "a[U+202E]txt.exe"


def test_zero_width_and_blank_lookalikes_are_spelled_out() -> None:
    assert visible("a\u200bb\u3164c\u00a0d") == "a[U+200B]b[U+3164]c[U+00A0]d"


def test_a_carriage_return_cannot_rewrite_a_line() -> None:
    assert visible("rm -rf /\rls", keeps_lines=True) == "rm -rf /[U+000D]ls"


def test_stacked_marks_cannot_climb_over_other_lines() -> None:
    assert "[U+0336]" in visible("a" + "\u0336" * 50)


def test_newlines_stay_only_where_asked() -> None:
    assert visible("a\nb") == "a[U+000A]b"
    assert visible("a\nb", keeps_lines=True) == "a\nb"


def test_a_long_line_is_cut_before_it_is_escaped() -> None:
    assert line("\x00" * 5_000_000, width=20) == "[U+0000][U+0000][U+…"


@given(st.text())
def test_what_is_shown_holds_no_control_format_or_unassigned_character(text: str) -> None:
    shown = visible(text)
    assert not {unicodedata.category(character) for character in shown} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_plain_text_is_shown_as_it_is(text: str) -> None:
    assert visible(text) == text


@given(st.text(), st.integers(min_value=1, max_value=100))
def test_one_line_is_never_wider_than_asked(text: str, width: int) -> None:
    shown = line(text, width=width)
    assert len(shown) <= width
    assert "\n" not in shown
