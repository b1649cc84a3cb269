"""Making hostile text visible: nothing that a model, tool or repository wrote reaches a terminal or page as it is.

Pure. Every character that is invisible, moves the cursor, reorders its neighbours or passes for another becomes
`[U+XXXX]`; long gaps say how long they are. The output is printable, left to right, and holds no ESC. Sources: Unicode
general categories and bidirectional classes (`unicodedata`), confusables (UTS 39).
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

LONG_GAP = 12
_ASCII_SAFE = re.compile(r"[ -~]*")
# Text that already looks like one of our marks is told apart by escaping its first character.
_IMITATION = re.compile(r"\[(?=U\+)|<(?=(?:LF|CR|TAB|[0-9]+ (?:SPACES|TABS))>)")
_GAP = re.compile(rf" {{{LONG_GAP},}}|\t{{2,}}")
_WORD = re.compile(r"[^\W_]+")
_ZERO_WIDTH = frozenset("\u200b\u200c\u200d\u2060\ufeff\u00ad\u180e\u034f\u115f\u1160\u3164\uffa0\u17b4\u17b5\u2800")
_ZERO_CATEGORIES = frozenset({"Cf"})
_BIDI_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Mn", "Me", "Mc"})
_RIGHT_TO_LEFT = frozenset({"R", "AL", "AN", "RLE", "RLO", "RLI", "LRE", "LRO", "LRI", "PDF", "PDI", "FSI"})


def is_bidi(letter: str) -> bool:
    return letter in _BIDI_CONTROLS


def is_zero_width(letter: str) -> bool:
    """Takes no room, or passes for a space, without being a control that moves the cursor."""
    is_tag = 0xE0000 <= ord(letter) <= 0xE01EF or 0xFE00 <= ord(letter) <= 0xFE0F
    return letter in _ZERO_WIDTH or is_tag or (unicodedata.category(letter) in _ZERO_CATEGORIES and not is_bidi(letter))


def is_control(letter: str) -> bool:
    """A control character other than tab and line feed; lone surrogates count."""
    return unicodedata.category(letter) in ("Cc", "Cs") and letter not in "\t\n"


def escape(letter: str) -> str:
    return f"[U+{ord(letter):04X}]"


def visible(text: str, *, is_exact: bool = True) -> str:
    """One line of safe text for one or more lines of hostile text; line ends become `<LF>`.

    `is_exact` (what would run): every letter that can be taken for an ASCII one is escaped. Otherwise (what people
    say) only where it stands in one word with ASCII letters.
    """
    if _ASCII_SAFE.fullmatch(text) and not _GAP.search(text) and not _IMITATION.search(text):
        return text
    confusable = _confusable_places(text, is_exact=is_exact) if not text.isascii() else frozenset()
    imitations = {found.start() for found in _IMITATION.finditer(text)}
    escaped = confusable | imitations
    shown = "".join(escape(letter) if place in escaped else _shown(letter) for place, letter in enumerate(text))
    return _mark_gaps(shown)


def visible_lines(text: str, *, is_exact: bool = True) -> list[str]:
    """Safe lines, each with a `<LF>` where the text breaks, so that a final newline shows too."""
    parts = text.split("\n")
    lines = [visible(part, is_exact=is_exact) for part in parts]
    marked = [line + "<LF>" for line in lines[:-1]]
    return marked if lines[-1] == "" and marked else [*marked, lines[-1]]


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters of text that is already safe; what is left out is counted."""
    if len(text) <= limit:
        return text
    note = f"… ({len(text)} characters)"
    return text[: max(limit - len(note), 0)] + note


def _shown(letter: str) -> str:
    if " " <= letter <= "~":
        return letter
    if letter == "\t":
        return letter
    if letter == "\n":
        return "<LF>"
    if letter == "\r":
        return "<CR>"
    if unicodedata.category(letter) in _HIDDEN_CATEGORIES or unicodedata.category(letter) == "Zs":
        return escape(letter)
    if is_zero_width(letter) or unicodedata.bidirectional(letter) in _RIGHT_TO_LEFT:
        return escape(letter)
    return letter


def _mark_gaps(text: str) -> str:
    def mark(found: re.Match[str]) -> str:
        kind = "SPACES" if found[0][0] == " " else "TABS"
        return f"<{len(found[0])} {kind}>"

    return _GAP.sub(mark, text).replace("\t", "<TAB>")


def _confusable_places(text: str, *, is_exact: bool) -> frozenset[int]:
    twins = ascii_twins()
    if is_exact:
        return frozenset(place for place, letter in enumerate(text) if letter in twins)
    places: set[int] = set()
    for word in _WORD.finditer(text):
        if any(letter.isascii() and letter.isalpha() for letter in word[0]):
            places.update(word.start() + place for place, letter in enumerate(word[0]) if letter in twins)
    return frozenset(places)


@cache
def ascii_twins() -> dict[str, str]:
    """Non-ASCII characters that pass for an ASCII letter, digit or sign, with what they pass for.

    Loaded once, on the first text that is not ASCII: the table takes tens of milliseconds to read.
    """
    from confusable_homoglyphs import confusables  # type: ignore[import-untyped]  # it ships no types

    twins: dict[str, str] = {}
    for letter, found in confusables.confusables_data.items():
        if len(letter) != 1 or letter.isascii() or unicodedata.category(letter).startswith("M"):
            continue
        ascii_form = next((str(twin["c"]) for twin in found if str(twin["c"]).isascii() and len(twin["c"]) == 1), "")
        if ascii_form.strip():
            twins[letter] = ascii_form
    for code in (*range(0xFF01, 0xFF5F), *range(0x1D400, 0x1D800)):
        plain = unicodedata.normalize("NFKC", chr(code))
        if plain.isascii() and len(plain) == 1:
            twins.setdefault(chr(code), plain)
    return twins


def twin_of(text: str) -> str:
    """The text with every confusable letter replaced by the ASCII one that it passes for."""
    if text.isascii():
        return text
    twins = ascii_twins()
    return "".join(twins.get(letter, letter) for letter in text)
