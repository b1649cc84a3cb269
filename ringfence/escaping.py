"""Makes hostile text safe to show in a terminal.

Models, tools, repositories and other people's words reach the screen only through here: whatever could move the
cursor, recolour, reorder, hide or imitate becomes its code point in brackets. What a card shows is stricter
(`ringfence_tools.card_text`), since there the exact bytes matter; which letters take no room is said there, once.
"""

from __future__ import annotations

import unicodedata

from ringfence_tools.card_text import escape, is_zero_width

_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"})
_MONGOLIAN_VARIATION = frozenset("\u180b\u180c\u180d")
_STACK_LIMIT = 4


def visible(text: str, *, keeps_lines: bool = False) -> str:
    """`text` with everything that is not plainly visible spelled out as `[U+XXXX]`.

    Tabs and newlines become `[U+0009]` and `[U+000A]` too, save where `keeps_lines` is set: then newlines stay and
    a tab is four spaces. More than four combining marks in a row are spelled out, so that no text climbs over another
    line. Pure; linear in the length of `text`.
    """
    shown: list[str] = []
    marks = 0
    for character in text:
        if character == "\n" and keeps_lines:
            shown.append(character)
            marks = 0
            continue
        if character == "\t" and keeps_lines:
            shown.append("    ")
            continue
        if " " <= character <= "~":
            shown.append(character)
            marks = 0
            continue
        is_mark = bool(unicodedata.combining(character)) or unicodedata.category(character) == "Me"
        marks = marks + 1 if is_mark else 0
        shown.append(escape(character) if marks > _STACK_LIMIT or _is_unsafe(character) else character)
    return "".join(shown)


def line(text: str, *, width: int = 200) -> str:
    """`text` as one visible line of at most `width` characters, with `…` where it was cut. Cut before it is escaped,
    so that five megabytes cost no more than one line."""
    cut = text[: width + 1]
    shown = visible(cut)
    if len(text) <= width and len(shown) <= width:
        return shown
    return shown[: max(width - 1, 0)] + "…"


def _is_unsafe(character: str) -> bool:
    """Every space but the plain one counts, which `visible` lets through before it asks."""
    category = unicodedata.category(character)
    return category in _UNSAFE_CATEGORIES or is_zero_width(character) or character in _MONGOLIAN_VARIATION
