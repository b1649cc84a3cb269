"""Secrets are taken out before anything is hashed: what looks like one, and every exact value that Ringfence holds.

A redacted place reads `[redacted:NAME]`. No hash of the secret is left behind, since a short secret can be guessed
from its hash. The patterns run in RE2, whose time is linear in the text, so hostile text cannot stall the log.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

import re2  # type: ignore[import-untyped]  # ships no types

from ringfence_audit.errors import AuditError
from ringfence_audit.events import JsonValue
from ringfence_audit.originals import Box

SHORTEST_VALUE = 6


class InvalidRedaction(AuditError):
    """A redaction rule does not compile, or a held value is too short to be taken out of text without ruining it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What looks like a secret. Where the RE2 pattern has a group, only the group is taken out. No `^` and no `$`."""

    name: str
    pattern: str


DEFAULT_RULES: tuple[Rule, ...] = (
    Rule("private-key", r"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----(?:[^-\x00]|-[^-\x00])*(?:-----END[A-Z -]*)?"),
    Rule("aws-key", r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    Rule("github-token", r"\b(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255})"),
    Rule("gitlab-token", r"\bgl(?:pat|rt|dt|cbt|ptt|ft|soat)-[A-Za-z0-9_\-]{20,}"),
    Rule("slack-token", r"\bxox[abeprs]-[A-Za-z0-9-]{10,}"),
    Rule("slack-hook", r"hooks\.slack\.com/services/([A-Za-z0-9/_+-]{20,})"),
    Rule("model-key", r"\bsk-(?:ant-|proj-|or-)?[A-Za-z0-9_\-]{20,}"),
    Rule("google-key", r"\bAIza[A-Za-z0-9_\-]{35}"),
    Rule("google-oauth", r"\bya29\.[A-Za-z0-9_\-]{20,}"),
    Rule("npm-token", r"\bnpm_[A-Za-z0-9]{36}\b"),
    Rule("pypi-token", r"\bpypi-[A-Za-z0-9_\-]{32,}"),
    Rule("huggingface-token", r"\bhf_[A-Za-z0-9]{30,}"),
    Rule("stripe-key", r"\b[sr]k_(?:live|test)_[A-Za-z0-9]{16,}"),
    Rule("vault-token", r"\bhv[sbr]\.[A-Za-z0-9_\-]{20,}"),
    Rule("age-key", r"\bAGE-SECRET-KEY-1[A-Z0-9]{50,}"),
    Rule("jwt", r"\beyJ[A-Za-z0-9_\-]{8,}\.eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]*"),
    Rule("authorization", r"(?i)\b(?:bearer|basic|token)\s+([A-Za-z0-9._~+/\-]{16,}=*)"),
    Rule("url-password", r"\b[a-zA-Z][a-zA-Z0-9+.\-]{1,20}://[^\s/:@\x00]{0,200}:([^\s/@\x00]{1,400})@"),
    Rule(
        "assignment",
        r"(?i)(?:password|passwd|passphrase|secret|api[_-]?key|apikey|access[_-]?key|auth[_-]?token|access[_-]?token|"
        r"refresh[_-]?token|private[_-]?key|client[_-]?secret)[a-z0-9_]{0,20}[\"']?\s{0,3}(?:=|:)\s{0,3}[\"']?"
        r"([^\s\"',;&\x00]{6,400})",
    ),
)

SENSITIVE_KEYS = frozenset(
    {
        "password",
        "passwd",
        "passphrase",
        "secret",
        "client_secret",
        "api_key",
        "apikey",
        "authorization",
        "proxy-authorization",
        "cookie",
        "set-cookie",
        "access_token",
        "refresh_token",
        "id_token",
        "private_key",
        "x-api-key",
    }
)
"""Text under such a key is taken out whole, whatever it looks like."""


class _Match(Protocol):
    def span(self, group: int) -> tuple[int, int]: ...


class _Pattern(Protocol):
    """The part of a compiled RE2 pattern that is used here."""

    @property
    def groups(self) -> int: ...

    def search(self, text: str) -> _Match | None: ...

    def finditer(self, text: str) -> Iterable[_Match]: ...


class Redactor:
    """Takes secrets out of values. Values may be held and released from any thread while others redact."""

    def __init__(
        self,
        rules: Sequence[Rule] = DEFAULT_RULES,
        *,
        values: Mapping[str, str] | None = None,
        sensitive_keys: Iterable[str] = SENSITIVE_KEYS,
        originals: Box | None = None,
    ) -> None:
        """With `originals` what was taken out is kept, sealed by it. Raises `InvalidRedaction`."""
        self.originals = originals
        self._compiled = tuple((rule.name, _compile(rule)) for rule in rules)
        self._any = re2.Set.SearchSet()
        for rule in rules:
            self._any.Add(rule.pattern)
        self._any.Compile()
        self._sensitive = frozenset(key.lower() for key in sensitive_keys)
        self._lock = threading.Lock()
        self._held: dict[str, tuple[str, ...]] = {}
        self._needles: tuple[tuple[str, str], ...] = ()
        for name, value in (values or {}).items():
            self.hold(name, value)

    def hold(self, name: str, value: str) -> None:
        """From now on take out this exact value and its base64, hexadecimal and URL forms. `InvalidRedaction`."""
        if len(value) < SHORTEST_VALUE:
            raise InvalidRedaction(f"the value of {name} is shorter than {SHORTEST_VALUE} characters: use a longer one")
        with self._lock:
            self._held[name] = tuple(dict.fromkeys(_forms(value)))
            self._rebuild()

    def release(self, name: str) -> None:
        """Stop looking for a held value."""
        with self._lock:
            self._held.pop(name, None)
            self._rebuild()

    def _rebuild(self) -> None:
        pairs = [(form, name) for name, forms in self._held.items() for form in forms]
        self._needles = tuple(sorted(pairs, key=lambda pair: -len(pair[0])))

    def is_clean(self, strings: Sequence[str], keys: Sequence[str]) -> bool:
        """Whether nothing in these strings and mapping keys would be taken out. Fast: this is the usual answer."""
        if not self._sensitive.isdisjoint(map(str.lower, keys)):
            return False
        text = "\0".join((*strings, *keys))
        try:
            if self._any.Match(text):
                return False
        except UnicodeEncodeError:
            return False
        return not any(form in text for form, _ in self._needles)

    def redact(self, text: str) -> str:
        """The text without its secrets."""
        for form, name in self._needles:
            if form in text:
                text = text.replace(form, f"[redacted:{name}]")
        for name, pattern in self._compiled:
            text = _take_out(text, name, pattern)
        return text

    def redact_value(self, value: JsonValue) -> JsonValue:
        """The value, in plain dicts and lists, without its secrets. Keys that hold secrets are redacted as well."""
        if isinstance(value, str):
            return self.redact(value)
        if isinstance(value, Mapping):
            cleaned: dict[str, JsonValue] = {}
            for key, item in value.items():
                name = self._key(key, cleaned)
                cleaned[name] = _blank(item, key) if key.lower() in self._sensitive else self.redact_value(item)
            return cleaned
        if isinstance(value, Sequence):
            return [self.redact_value(item) for item in value]
        return value

    def _key(self, key: str, taken: Mapping[str, JsonValue]) -> str:
        name = clean = self.redact(key)
        count = 2
        while name in taken:
            name, count = f"{clean}#{count}", count + 1
        return name


def _blank(value: JsonValue, key: str) -> JsonValue:
    """Every text below a sensitive key is taken out; numbers and structure stay."""
    if isinstance(value, str):
        return f"[redacted:{key.lower()}]" if value else value
    if isinstance(value, Mapping):
        return {name: _blank(item, key) for name, item in value.items()}
    if isinstance(value, Sequence):
        return [_blank(item, key) for item in value]
    return value


def _compile(rule: Rule) -> _Pattern:
    if any(anchor in rule.pattern.replace("[^", "[") for anchor in ("^", "$", r"\A", r"\z")):
        raise InvalidRedaction(f"rule {rule.name} is anchored: a secret may stand anywhere in a text")
    try:
        pattern: _Pattern = re2.compile(rule.pattern)
    except re2.error as error:
        raise InvalidRedaction(f"rule {rule.name} is not an RE2 pattern: {error}") from error
    if pattern.search("") is not None:
        raise InvalidRedaction(f"rule {rule.name} matches the empty text")
    return pattern


def _take_out(text: str, name: str, pattern: _Pattern) -> str:
    pieces: list[str] = []
    end = 0
    for match in pattern.finditer(text):
        group = 1 if pattern.groups else 0
        start, stop = match.span(group)
        if start < end or text[start:stop].startswith("[redacted:"):
            continue
        pieces += (text[end:start], f"[redacted:{name}]")
        end = stop
    return text if not pieces else "".join((*pieces, text[end:]))


def _forms(value: str) -> Iterable[str]:
    """The value as it may appear: plain, URL-quoted, hexadecimal, and inside base64 at each of the three alignments."""
    yield value
    yield quote(value, safe="")
    raw = value.encode()
    yield raw.hex()
    yield raw.hex().upper()
    for shift in range(3):
        padded = b"\0" * shift + raw
        start = -(-shift * 8 // 6)
        whole = len(padded) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            inner = encode(padded).decode()[start:whole]
            if len(inner) >= SHORTEST_VALUE:
                yield inner
