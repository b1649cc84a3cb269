"""Output of tools as a page shows it: colours become classes, everything else that could move or hide is spelled out.

Only SGR sequences (ECMA-48, 8.3.117) with the eight usual colours, bold and reset are understood; any other escape
sequence stays visible as text.
"""

from __future__ import annotations

import re

from markupsafe import Markup, escape

from ringfence.escaping import visible

_SGR = re.compile(r"\x1b\[([0-9;]{0,40})m")
_NAMES = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")


def ansi(text: str) -> Markup:
    """Safe HTML for hostile output, its lines kept."""
    parts: list[Markup] = []
    classes: tuple[str, ...] = ()
    at = 0
    for found in _SGR.finditer(text):
        parts.append(_span(text[at : found.start()], classes))
        classes = _after(classes, found[1])
        at = found.end()
    return Markup("").join([*parts, _span(text[at:], classes)])


def _span(text: str, classes: tuple[str, ...]) -> Markup:
    if not text:
        return Markup("")
    shown = escape(visible(text, keeps_lines=True))
    return Markup('<span class="{}">{}</span>').format(" ".join(classes), shown) if classes else shown


def _after(classes: tuple[str, ...], codes: str) -> tuple[str, ...]:
    held = list(classes)
    for code in codes.split(";"):
        number = int(code or "0")
        if number == 0:
            held = []
        elif number == 1:
            held = [*(one for one in held if one != "ansi-bold"), "ansi-bold"]
        elif 30 <= number <= 37 or 90 <= number <= 97:
            name = f"ansi-{_NAMES[number % 10]}"
            held = [*(one for one in held if one == "ansi-bold"), name]
        elif number == 39:
            held = [one for one in held if one == "ansi-bold"]
    return tuple(held)
