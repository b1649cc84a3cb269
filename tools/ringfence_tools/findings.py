"""What a reviewer must not overlook: each finding names one thing in a call that hides, leaks or deceives.

Pure. On the path of a tool call this runs when an escalation opens; each finding locks approval until a person has
opened it. Everything put into a finding's text is already safe to show.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from ringfence_audit.events import JsonValue
from ringfence_sandbox.contract import ChangedFile
from ringfence_tools.calls import Access, Family
from ringfence_tools.card_text import ascii_twins, is_bidi, is_control, is_zero_width, shorten, twin_of, visible
from ringfence_tools.hosts import HostInvalid, read_host, split_resource
from ringfence_tools.shell_reading import ShellReading

LONG_LINE = 400
LONG_TEXT = 4000
LONG_LINES = 200
"""As many lines as the card shows."""
# No look-ahead here: over a million spaces it would take quadratic time.
GAP = re.compile(r"[ \t\u00a0\u3000\u2000-\u200a]{12,}")
BLANK_LINES = re.compile(r"\n(?:[ \t]*\n){4,}")
MAX_TEXT = 1 << 20
"""Characters of one argument that are looked at; a longer one is a finding by itself."""
MAX_SUMMARY = 300
_CREDENTIAL = re.compile(
    r"(^|/)(\.ssh(/|$)|\.aws(/|$)|\.gnupg(/|$)|\.kube(/|$)|\.docker/config\.json|\.netrc$|\.pgpass$|\.npmrc$|\.pypirc$"
    r"|\.git-credentials$|\.config/(gcloud|gh)(/|$)|id_(rsa|dsa|ecdsa|ed25519)|\.env(\.[a-z]+)?$|credentials(\.json)?$"
    r"|shadow$|secrets?(/|$)|[^/]*\.(pem|key|p12|pfx|keystore|kdbx)$|environ$|service[-_]account[^/]*\.json$)",
    re.IGNORECASE,
)
_WORD = re.compile(r"\S+")
_ASCII_ALPHANUMERIC = re.compile(r"[A-Za-z0-9]")


class Code(StrEnum):
    """The kind of a finding, as the card shows it."""

    HOST = "HOST"
    HIDDEN = "HIDDEN"
    MULTI = "MULTI"
    SENDS = "SENDS"
    SCRIPT = "SCRIPT"
    DECODE = "DECODE"
    CREDENTIAL = "CREDENTIAL"
    CONFUSABLE = "CONFUSABLE"
    BIDI = "BIDI"
    ZEROWIDTH = "ZEROWIDTH"
    CONTROL = "CONTROL"
    LONG = "LONG"
    OPAQUE = "OPAQUE"


@dataclass(frozen=True, slots=True)
class Finding:
    """`summary` is one line of safe text; `details` are further lines, shown when a person opens it."""

    code: Code
    summary: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ScriptNote:
    """What is known of a file that this run changed. `added` are added lines, as the repository has them: hostile."""

    age_s: int | None = None
    added: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that findings are drawn from. `reading` where an argument is shell text; paths are workspace-relative."""

    arguments: Mapping[str, JsonValue]
    accesses: Sequence[Access] = ()
    reading: ShellReading | None = None
    changed: Sequence[ChangedFile] = ()
    notes: Mapping[str, ScriptNote] = field(default_factory=dict)
    seen_hosts: frozenset[str] | None = None
    """Hosts (ASCII) that this team's runs have reached before; None where nobody has looked."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Bytes of files that may be sent, by workspace-relative path; "." is the whole workspace."""


def findings(evidence: Evidence) -> tuple[Finding, ...]:
    """All findings, in the order in which a reviewer should open them. Never raises on hostile text."""
    texts = list(_strings(evidence.arguments))
    found: list[Finding] = []
    found.extend(_hosts(evidence))
    found.extend(_hidden(evidence, texts))
    found.extend(_sends(evidence))
    found.extend(_scripts(evidence))
    found.extend(_fed(evidence))
    found.extend(_credentials(evidence))
    found.extend(_confusables(texts))
    found.extend(_characters(texts))
    found.extend(_long(texts))
    if evidence.reading is not None and not evidence.reading.is_parsed:
        reasons = [visible(problem) for problem in evidence.reading.problems]
        found.append(Finding(Code.OPAQUE, shorten("not readable in full: " + "; ".join(reasons), MAX_SUMMARY)))
    return tuple(found)


def _strings(arguments: Mapping[str, JsonValue]) -> Iterator[tuple[str, str]]:
    """Every string among the arguments, with its name."""
    stack: list[tuple[str, JsonValue]] = [(name, value) for name, value in arguments.items()]
    while stack:
        name, value = stack.pop(0)
        if isinstance(value, str):
            yield name, value[:MAX_TEXT]
        elif isinstance(value, Mapping):
            stack.extend((f"{name}.{key}", inner) for key, inner in value.items())
        elif isinstance(value, Sequence):
            stack.extend((f"{name}[{place}]", inner) for place, inner in enumerate(value))


def _hosts(evidence: Evidence) -> Iterator[Finding]:
    """Hosts that are not what they look like. A plain host that is new is on the card's OPENS line, not here."""
    uses: dict[str, tuple[str, bool]] = {}
    for use in evidence.reading.hosts if evidence.reading is not None else ():
        uses.setdefault(use.host, (use.looks_like, use.is_disguised_address))
    for access in evidence.accesses:
        if access.family is not Family.NETWORK:
            continue
        try:
            host = read_host(split_resource(access.resource)[0])
        except HostInvalid:
            yield Finding(Code.HOST, shorten(f"{visible(access.resource)} is no readable host", MAX_SUMMARY))
            continue
        uses.setdefault(host.ascii, (host.looks_like, host.is_disguised_address))
    for name, (looks_like, is_disguised) in uses.items():
        seen = _seen(name, evidence.seen_hosts)
        if looks_like:
            yield Finding(Code.HOST, shorten(f"{name}, not {visible(looks_like)}{seen}", MAX_SUMMARY))
        elif "xn--" in name:
            yield Finding(Code.HOST, shorten(f"{name} is written in another alphabet{seen}", MAX_SUMMARY))
        elif is_disguised:
            yield Finding(Code.HOST, f"the address {name}, written so that it does not look like one{seen}")
        elif _is_address(name) and name not in (evidence.seen_hosts or ()):
            yield Finding(Code.HOST, f"{name} is a bare address, not a name{seen}")


def _seen(host: str, seen_hosts: frozenset[str] | None) -> str:
    """What is known of earlier use; nothing is claimed where nobody has looked."""
    if seen_hosts is None:
        return ""
    return " · seen before" if host in seen_hosts else " · never seen"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _hidden(evidence: Evidence, texts: list[tuple[str, str]]) -> Iterator[Finding]:
    """Text pushed out of sight by a long gap, and commands that follow a newline."""
    gaps = 0
    said: list[str] = []
    details: list[str] = []
    for name, text in texts:
        for found in GAP.finditer(text):
            if found.end() == len(text) or text[found.end()] in "\r\n":
                continue
            is_indent = found.start() == 0 or text[found.start() - 1] == "\n"
            if is_indent and evidence.reading is None and len(found[0]) < LONG_LINE:
                continue
            gaps += 1
            rest = text[found.end() : found.end() + LONG_LINE].lstrip()
            what = "second command" if rest.startswith(("&&", "||", ";", "|", "&")) else "more text"
            if gaps <= 5:
                said.append(f"{what} after {len(found[0])} spaces")
                details.append(f"{visible(name)}: {shorten(visible(rest), 300)}")
        blank = BLANK_LINES.search(text) if evidence.reading is not None else None
        if blank is not None and text[blank.end() :].strip():
            gaps += 1
            said.append(f"more text after {blank[0].count(chr(10)) - 1} empty lines")
            details.append(f"{visible(name)}: {shorten(visible(text[blank.end() :][:LONG_LINE].lstrip()), 300)}")
    follows = evidence.reading is not None and _follows_newline(evidence.reading)
    if gaps:
        if follows:
            said.append("another after newline")
        yield Finding(Code.HIDDEN, shorten("; ".join(said), MAX_SUMMARY), tuple(details))
    elif follows:
        lines = [line for line in evidence.reading.text.split("\n") if line.strip()] if evidence.reading else []
        shown = tuple(shorten(visible(line), 300) for line in lines[1:6])
        yield Finding(Code.MULTI, f"{len(lines)} lines: more commands follow after a newline", shown)


def _follows_newline(reading: ShellReading) -> bool:
    """More than one line, and more than one command of which some is not on the first line."""
    lines = [line for line in reading.text.split("\n") if line.strip()]
    if len(lines) < 2:
        return False
    first_alone = lines[0].rstrip()
    if first_alone.endswith("\\") and len(reading.commands) <= 1:
        return False
    return len(reading.commands) > 1 or not reading.is_parsed


def _sends(evidence: Evidence) -> Iterator[Finding]:
    """What would leave, and how."""
    reading = evidence.reading
    uses = [use for use in reading.hosts if use.sends and use.is_opened] if reading is not None else []
    methods = {use.method for use in uses if use.method}
    by_access = [a for a in evidence.accesses if a.family is Family.NETWORK and a.attributes.get("sends") is True]
    methods |= {str(a.attributes["method"]) for a in by_access if a.attributes.get("method")}
    if not uses and not by_access:
        return
    what = [_described(name, evidence) for name in (reading.sent if reading is not None else ())]
    parts = [*(what[:5] or ["data given in the call"]), visible(", ".join(sorted(methods)))]
    yield Finding(Code.SENDS, shorten(", ".join(part for part in parts if part), MAX_SUMMARY), tuple(what[5:50]))


def _described(name: str, evidence: Evidence) -> str:
    is_whole = bool(re.search(r"^standard input from (tar|zip|git archive|git bundle|cpio|rsync)\b", name)) and bool(
        re.search(r"(^| )(\.|\./|\*|/workspace/?|HEAD|--all)( |$)", name)
    )
    if is_whole or name in (".", "/workspace"):
        size = evidence.sizes.get(".")
        return "whole workspace" + (f", {size_words(size)}" if size is not None else "")
    size = evidence.sizes.get(posixpath.normpath(name).removeprefix("/workspace/"))
    return visible(name) + (f", {size_words(size)}" if size is not None else "")


def size_words(size_bytes: int) -> str:
    """`6.1 MB`, `284 bytes`."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if size_bytes >= factor:
            return f"{size_bytes * 10 // factor / 10} {unit}"
    return f"{size_bytes} bytes"


def _scripts(evidence: Evidence) -> Iterator[Finding]:
    """Files that the call would execute and that this run has written."""
    if evidence.reading is None:
        return
    changed = {posixpath.normpath(file.path): file for file in evidence.changed}
    for path in evidence.reading.scripts:
        file = changed.get(path)
        if file is None or file.status == "deleted":
            continue
        note = evidence.notes.get(path, ScriptNote())
        verb = "written" if file.status == "added" else "changed"
        age = f" {age_words(note.age_s)} ago" if note.age_s is not None else ""
        added = [shorten(visible(line.strip()), 200) for line in note.added if line.strip()]
        tail = f"; +{shorten(added[0], 80)}" if added else ""
        summary = f"{visible(path)} {verb} by this run{age}{tail}"
        digest = (f"SHA-256 {file.sha256}",) if file.sha256 else ()
        yield Finding(Code.SCRIPT, shorten(summary, MAX_SUMMARY), (*digest, *(f"+{line}" for line in added[:40])))


def age_words(seconds: int) -> str:
    """`2 min`, `3 h`, `40 s`."""
    for unit, factor in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= factor:
            return f"{seconds // factor} {unit}"
    return f"{max(seconds, 0)} s"


def _fed(evidence: Evidence) -> Iterator[Finding]:
    if evidence.reading is not None and evidence.reading.shells_fed:
        names = ", ".join(visible(name) for name in evidence.reading.shells_fed)
        decodes = [c for c in evidence.reading.commands if c.program in ("base64", "xxd", "openssl", "gunzip", "rev")]
        how = " decoded" if decodes else ""
        yield Finding(Code.DECODE, shorten(f"{names} runs{how} text that is not shown here", MAX_SUMMARY))


def _credentials(evidence: Evidence) -> Iterator[Finding]:
    names: dict[str, None] = {}
    if evidence.reading is not None:
        for command in evidence.reading.commands:
            words = [word.text for word in command.argv[1:]] + [redirect.target.text for redirect in command.redirects]
            names.update(dict.fromkeys(word for word in words if len(word) < 500))
    for name, value in evidence.arguments.items():
        if isinstance(value, str) and name in ("path", "resource", "file") and len(value) < 4096:
            names[value] = None
    names.update(dict.fromkeys(a.resource for a in evidence.accesses if a.family in (Family.FILES, Family.DELIVER)))
    names = {name[-4096:]: None for name in names}
    hits = [name for name in names if _CREDENTIAL.search(name.partition("=")[2] or name) or _CREDENTIAL.search(name)]
    if hits:
        shown = [shorten(visible(hit), 120) for hit in hits]
        summary = shorten("reads or names " + ", ".join(shown[:3]), MAX_SUMMARY)
        yield Finding(Code.CREDENTIAL, summary, tuple(shown[3:20]))


def _confusables(texts: list[tuple[str, str]]) -> Iterator[Finding]:
    """Words that mix ASCII with letters of another alphabet that look the same."""
    shown: list[str] = []
    for _, text in texts:
        if text.isascii():
            continue
        twins = ascii_twins()
        for word in _WORD.finditer(text):
            is_mixed = not word[0].isascii() and _ASCII_ALPHANUMERIC.search(word[0]) is not None
            if is_mixed and any(letter.isalnum() and letter in twins for letter in word[0]):
                shown.append(f"{shorten(visible(word[0]), 100)}, not {shorten(visible(twin_of(word[0])), 100)}")
                if len(shown) >= 20:
                    break
    if shown:
        yield Finding(Code.CONFUSABLE, shorten("; ".join(shown[:2]), MAX_SUMMARY), tuple(shown[2:]))


def _characters(texts: list[tuple[str, str]]) -> Iterator[Finding]:
    kinds: tuple[tuple[Code, Callable[[str], bool], str], ...] = (
        (Code.BIDI, is_bidi, "characters that change the reading direction"),
        (Code.ZEROWIDTH, is_zero_width, "invisible characters"),
        (Code.CONTROL, is_control, "control characters"),
    )
    seen: dict[str, dict[str, int]] = {}
    for name, text in texts:
        if not (text.isascii() and text.isprintable()):
            counts: dict[str, int] = {}
            for letter in text:
                if not " " <= letter <= "~":
                    counts[letter] = counts.get(letter, 0) + 1
            seen[name] = counts
    for code, is_kind, words in kinds:
        total, places = _count(seen, is_kind)
        if total:
            yield Finding(code, shorten(f"{total} {words}", MAX_SUMMARY), tuple(places[:20]))


def _count(seen: Mapping[str, Mapping[str, int]], is_kind: Callable[[str], bool]) -> tuple[int, list[str]]:
    hits = [
        (name, letter, times) for name, counts in seen.items() for letter, times in counts.items() if is_kind(letter)
    ]
    places = [f"{shorten(visible(name), 60)}: {visible(letter)} × {times}" for name, letter, times in hits]
    return sum(times for _, _, times in hits), places


def _long(texts: Iterable[tuple[str, str]]) -> Iterator[Finding]:
    for name, text in texts:
        longest = max((len(line) for line in text.split("\n")), default=0)
        lines = text.count("\n") + 1
        if longest > LONG_LINE or len(text) > LONG_TEXT or lines > LONG_LINES:
            yield Finding(
                Code.LONG, f"{shorten(visible(name), 60)}: {lines} lines, {len(text)} characters, longest {longest}"
            )
