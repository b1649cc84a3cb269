"""Makes hostile text safe to show in a terminal.

Models, tools, repositories and other people's words reach the screen only through here: whatever could move the
cursor, recolour, reorder, hide or imitate becomes its code point in brackets.
"""

from __future__ import annotations

import unicodedata

_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_BLANK_LOOKALIKES = frozenset("\u115f\u1160\u3164\uffa0\u2800\u00a0\u2007\u202f\u3000\u034f\u180b\u180c\u180d\u180e")
_VARIATION = range(0xFE00, 0xFE10)
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
        shown.append(_spell(character) if marks > _STACK_LIMIT or _is_unsafe(character) else character)
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
    return (
        unicodedata.category(character) in _UNSAFE_CATEGORIES
        or character in _BLANK_LOOKALIKES
        or ord(character) in _VARIATION
    )


def _spell(character: str) -> str:
    return f"[U+{ord(character):04X}]"
