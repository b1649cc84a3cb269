"""Words of a shell text, as far as they are known before it runs. Pure; follows bash's quoting rules.

A word whose value depends on anything but its own characters (variables, substitutions, globs, braces, tilde) is not
static. A variable that is given exactly one plain value in the text is filled in, so that a person sees the host; the
word stays not static, since the order of things was not followed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from tree_sitter import Node

from ringfence_tools.shell_reading_parts import Word

_ESCAPE = re.compile(r"\\(\n|.)", re.DOTALL)
_QUOTED_ESCAPE = re.compile(r"\\([$`\"\\\n])")
_ANSI = re.compile(r"\\(x[0-9a-fA-F]{1,2}|u[0-9a-fA-F]{1,4}|U[0-9a-fA-F]{1,8}|[0-7]{1,3}|c.|.)", re.DOTALL)
_SIMPLE = {"a": "\a", "b": "\b", "e": "\x1b", "E": "\x1b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_ACTIVE = re.compile(r"(?<!\\)(?:\\\\)*(?:[*?\[]|\{[^{}]*(?:,|\.\.))|^~|[:=]~")


def text_of(node: Node) -> str:
    return (node.text or b"").decode("utf-8", "surrogateescape")


def read_word(node: Node, known: Mapping[str, str]) -> Word:
    """The value of a word node. Never raises; what is not understood is not static."""
    kind = node.type
    raw = text_of(node)
    if kind in ("word", "number", "command_name", "variable_name", "file_descriptor"):
        inner = node.named_children
        if kind == "command_name" and inner:
            return read_word(inner[0], known) if len(inner) == 1 else Word(raw, is_static=False)
        return Word(_unescape(raw), is_static=not _ACTIVE.search(raw) and "$" not in raw and "`" not in raw)
    if kind == "raw_string":
        return Word(raw[1:-1])
    if kind == "ansi_c_string":
        return _ansi(raw[2:-1])
    if kind == "string":
        return _string(node, raw, known)
    if kind in ("concatenation", "heredoc_body"):
        return _joined(node, known)
    if kind in ("simple_expansion", "expansion"):
        name = raw.strip("${}")
        return Word(known.get(name, raw), is_static=False)
    return Word(raw, is_static=False)


def _unescape(raw: str) -> str:
    return _ESCAPE.sub(lambda found: "" if found[1] == "\n" else found[1], raw)


def _string(node: Node, raw: str, known: Mapping[str, str]) -> Word:
    parts = [child for child in node.named_children if child.type != "string_content"]
    if not parts:
        inner = _QUOTED_ESCAPE.sub(lambda found: "" if found[1] == "\n" else found[1], raw[1:-1])
        return Word(inner, is_static="$" not in inner or "\\$" in raw)
    return _spliced(node, parts, known, strip=1)


def _joined(node: Node, known: Mapping[str, str]) -> Word:
    children = node.named_children
    covered = sum(child.end_byte - child.start_byte for child in children)
    if covered != node.end_byte - node.start_byte:
        return _spliced(node, children, known, strip=0)
    words = [read_word(child, known) for child in children]
    # bash expands {a,b} and [ab] also where quotes or further words stand beside or inside them.
    bare = "".join(text_of(child) if child.type in ("word", "number") else "q" for child in children)
    is_static = not _ACTIVE.search(bare) and all(word.is_static for word in words)
    return Word("".join(word.text for word in words), is_static=is_static)


def _spliced(node: Node, parts: list[Node], known: Mapping[str, str], *, strip: int) -> Word:
    """The node's own text with known variables filled in."""
    whole = node.text or b""
    pieces: list[str] = []
    at = strip
    for part in parts:
        start = part.start_byte - node.start_byte
        pieces.append(whole[at:start].decode("utf-8", "surrogateescape"))
        pieces.append(read_word(part, known).text)
        at = part.end_byte - node.start_byte
    pieces.append(whole[at : len(whole) - strip].decode("utf-8", "surrogateescape"))
    return Word("".join(pieces), is_static=False)


def _ansi(inner: str) -> Word:
    """`$'…'`: the escapes of ANSI C."""

    def replace(found: re.Match[str]) -> str:
        code = found[1]
        if code[0] in "xuU" and len(code) > 1:
            value = int(code[1:], 16)
            return chr(value) if value < 0x110000 and not 0xD800 <= value < 0xE000 else "\ufffd"
        if code[0] in "01234567":
            return chr(int(code, 8) & 0xFF)
        if code[0] == "c" and len(code) > 1:
            return chr(ord(code[1]) & 0x1F)
        return _SIMPLE.get(code, code)

    return Word(_ANSI.sub(replace, inner))
