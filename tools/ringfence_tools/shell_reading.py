"""Reading a shell text: its commands, hosts, files and what it would send, without running anything.

On the path of a tool call this feeds the policy (`accesses_of_shell`) and the card. It is no fence: the kernel and
the egress proxy are. Where the text cannot be read in full, `is_parsed` is False and whoever decides must ask. Time
is bounded for any input: longer or knottier texts than people write are not parsed at all. Grammar: tree-sitter-bash.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

import tree_sitter_bash
from tree_sitter import Language, Node, Parser

from ringfence_tools.calls import Access, Family
from ringfence_tools.hosts import resource_of
from ringfence_tools.shell_reading_expansions import look_at_expansions
from ringfence_tools.shell_reading_hosts import MENTIONING, fetches, hosts_of, sent_by, urls_in
from ringfence_tools.shell_reading_parts import Command, HostUse, Redirect, ShellReading, Word
from ringfence_tools.shell_reading_unwrap import INTERPRETERS, SHELLS, unwrap
from ringfence_tools.shell_reading_words import read_word, text_of

__all__ = ["Command", "HostUse", "Redirect", "ShellReading", "Word", "accesses_of_shell", "read_shell"]

MAX_BYTES = 64 << 10
MAX_SCANNED = 1 << 20
MAX_COMMANDS = 1000
MAX_DEPTH = 6
MAX_HOSTS = 200
MAX_LISTED = 200
# The grammar takes quadratic time over long runs of these where the text does not parse.
_KNOTS: tuple[tuple[str, int], ...] = (("|", 1500), ("<", 1500), ("=(", 600), ("${", 4000))
_LOCAL = re.compile(r"^(localhost|.*\.localhost|127\.[0-9.]+|::1|0\.0\.0\.0)$")
_BUILD_FILES = {
    "make": ("Makefile", "makefile", "GNUmakefile"),
    "npm": ("package.json",),
    "yarn": ("package.json",),
    "pnpm": ("package.json",),
    "tox": ("tox.ini",),
    "nox": ("noxfile.py",),
    "just": ("justfile",),
    "pre-commit": (".pre-commit-config.yaml",),
}


@dataclass(slots=True)
class _Found:
    """What has been gathered so far; lives only during one `read_shell`."""

    commands: list[Command] = field(default_factory=list)
    mentions: list[HostUse] = field(default_factory=list)
    fed: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    problems: dict[str, None] = field(default_factory=dict)
    pipelines: int = 0
    parses: int = 0


def read_shell(text: str) -> ShellReading:
    """Read a shell text. Never raises; at most a few hundred milliseconds whatever the input."""
    found = _Found()
    _read_text(text, found, via=(), depth=0)
    hosts = [use for command in found.commands if not command.wraps for use in hosts_of(command)]
    hosts += found.mentions
    if found.problems:
        hosts += islice(urls_in(text[:MAX_SCANNED]), 10 * MAX_HOSTS)
    return ShellReading(
        text,
        commands=tuple(found.commands),
        hosts=_distinct(hosts),
        paths=tuple(dict.fromkeys(_outside(found.commands)))[:MAX_LISTED],
        scripts=tuple(dict.fromkeys(_scripts(found)))[:MAX_LISTED],
        sent=tuple(dict.fromkeys(_sent(found.commands)))[:MAX_LISTED],
        shells_fed=tuple(dict.fromkeys([*found.fed, *_fed(found.commands)]))[:MAX_LISTED],
        is_parsed=not found.problems,
        problems=tuple(found.problems),
    )


def accesses_of_shell(text: str) -> tuple[Access, ...]:
    """What a shell text comes down to: the whole, each command, each host that it would open."""
    return accesses_of_reading(read_shell(text))


def accesses_of_reading(reading: ShellReading) -> tuple[Access, ...]:
    """`accesses_of_shell` for a text that is already read. Loopback stays inside the sandbox and is no access."""
    whole = Access(Family.SHELL, reading.text, {"parsed": reading.is_parsed})
    parts = [
        Access(
            Family.SHELL,
            command.words or " ".join(command.assignments),
            {
                "words": command.words,
                "program": command.program,
                "static": command.is_static,
                "assigns": bool(command.assignments) or command.is_elsewhere,
                "wraps": command.wraps,
            },
        )
        for command in reading.commands
        if command.argv or command.assignments
    ]
    opened = (use for use in reading.hosts if use.is_opened and not _LOCAL.match(use.host))
    hosts = [
        Access(
            Family.NETWORK,
            resource_of(use.host, use.port),
            {"method": use.method, "url": use.url, "sends": use.sends},
        )
        for use in opened
    ]
    return (whole, *_unique(parts), *_unique(hosts))


def _unique(accesses: list[Access]) -> list[Access]:
    seen = {(access.resource, tuple(access.attributes.items())): access for access in accesses}
    return list(seen.values())


def _distinct(uses: list[HostUse]) -> tuple[HostUse, ...]:
    """One of each host, port, method and direction, what is opened before what is only mentioned."""
    kept: dict[tuple[str, int, str, bool], HostUse] = {}
    for use in sorted(uses, key=lambda use: not use.is_opened):
        if not use.is_opened and any(key[:2] == (use.host, use.port) for key in kept):
            continue
        kept.setdefault((use.host, use.port, use.method, use.sends), use)
        if len(kept) >= MAX_HOSTS:
            break
    return tuple(kept.values())


def _read_text(text: str, found: _Found, *, via: tuple[str, ...], depth: int) -> None:
    found.parses += 1
    raw = text.encode("utf-8", "surrogateescape" if not re.search("[\ud800-\udc7f\udd00-\udfff]", text) else "replace")
    if "\0" in text:
        found.problems["it holds a NUL character"] = None
    elif len(raw) > MAX_BYTES or any(text.count(mark) > limit for mark, limit in _KNOTS):
        found.problems[f"too long or too knotty to read ({len(raw)} bytes)"] = None
    elif depth > MAX_DEPTH or found.parses > 200:
        found.problems["shells within shells, too deep to follow"] = None
    else:
        root = Parser(Language(tree_sitter_bash.language())).parse(raw).root_node
        if root.has_error:
            found.problems["it does not parse as shell"] = None
        _walk(root, _assigned(root), found, via=via, depth=depth)
        expansions = look_at_expansions(list(_nodes(root)))
        found.problems |= dict.fromkeys(expansions.problems[:5])
        for name in expansions.assigned[:MAX_LISTED]:
            _add(Command((), assignments=(f"{name}=",), via=via), found, depth=depth)


def _assigned(root: Node) -> Mapping[str, str]:
    """Variables that the text sets exactly once, to a plain value."""
    values: dict[str, str] = {}
    times: Counter[str] = Counter()
    for node in _nodes(root):
        if node.type in ("for_statement", "select_statement") and node.child_by_field_name("variable") is not None:
            variable = node.child_by_field_name("variable")
            times[text_of(variable) if variable else ""] += 2
        if node.type != "variable_assignment":
            continue
        name, value = node.child_by_field_name("name"), node.child_by_field_name("value")
        if name is None:
            continue
        word = read_word(value, {}) if value is not None else Word("")
        times[text_of(name)] += 1 if word.is_static else 2
        values[text_of(name)] = word.text
    return {name: value for name, value in values.items() if times[name] == 1}


def _nodes(root: Node) -> Iterator[Node]:
    stack = [root]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(node.children))


def _walk(root: Node, known: Mapping[str, str], found: _Found, *, via: tuple[str, ...], depth: int) -> None:
    pipelines: dict[int, int] = {}
    redirected: dict[int, list[Redirect]] = {}
    for node in _nodes(root):
        if node.type == "pipeline":
            found.pipelines += 1
            for child in node.named_children:
                body = child.child_by_field_name("body") if child.type == "redirected_statement" else child
                pipelines[(body or child).id] = found.pipelines
        elif node.type == "redirected_statement":
            body = node.child_by_field_name("body")
            redirects = [_redirect(child, known) for child in node.children_by_field_name("redirect")]
            if body is not None:
                redirected[body.id] = redirects
                if body.type == "pipeline" and body.named_children:
                    redirected[body.named_children[-1].id] = redirects
            else:
                _add(Command((), redirects=tuple(redirects), via=via), found, depth=depth)
        elif node.type in ("command", "declaration_command", "unset_command", "test_command"):
            command = _command(node, known, redirected.get(node.id, []))
            _add(replace(command, via=via, pipeline=pipelines.get(node.id, -1)), found, depth=depth)
        elif node.type == "variable_assignment":
            found.mentions.extend(urls_in(text_of(node)[:4000], is_opened=False))
            if node.parent is None or node.parent.type not in ("command", "declaration_command"):
                # `PATH=x; git status` runs another git: where commands have rules, this is a part of its own.
                _add(Command((), assignments=(text_of(node),), via=via), found, depth=depth)


def _command(node: Node, known: Mapping[str, str], around: list[Redirect]) -> Command:
    if node.type != "command":
        words = tuple(Word(word) for word in text_of(node).split()[:200])
        return Command(words, redirects=tuple(around))
    argv: list[Word] = []
    assignments: list[str] = []
    redirects = list(around)
    for child in node.named_children:
        if child.type == "variable_assignment":
            assignments.append(text_of(child))
        elif child.type.endswith("_redirect"):
            redirects.append(_redirect(child, known))
        elif child.type != "comment":
            argv.append(read_word(child, known))
    return Command(tuple(argv), assignments=tuple(assignments), redirects=tuple(redirects))


def _redirect(node: Node, known: Mapping[str, str]) -> Redirect:
    if node.type == "heredoc_redirect":
        bodies = [child for child in node.named_children if child.type == "heredoc_body"]
        body = bodies[0] if bodies else None
        is_static = body is not None and not body.named_children
        return Redirect("<<", Word(text_of(body) if body else "", is_static=is_static))
    target = node.child_by_field_name("destination") or (node.named_children[-1] if node.named_children else None)
    operator = next((text_of(child) for child in node.children if not child.is_named), ">")
    if node.type == "herestring_redirect":
        operator = "<<<"
    return Redirect(operator, read_word(target, known) if target is not None else Word("", is_static=False))


def _add(command: Command, found: _Found, *, depth: int) -> None:
    """Keep a command, and read what it would start in turn."""
    if len(found.commands) >= MAX_COMMANDS:
        found.problems[f"more than {MAX_COMMANDS} commands"] = None
        return
    program = command.program
    inner = unwrap(command.argv, program)
    # Whoever changes the user or the root is judged by its own name too.
    is_plain = not command.assignments and program not in ("sudo", "doas", "chroot", "find")
    is_transparent = inner is not None and inner.is_known and is_plain
    found.commands.append(replace(command, wraps=is_transparent))
    if program == "cd" and len(command.argv) == 2 and command.argv[1].is_static:
        found.folders.append(command.argv[1].text)
    _read_fed(command, found, depth=depth)
    if inner is None:
        return
    via = (*command.via, inner.via)
    if not inner.is_known:
        found.problems[f"what {inner.via} starts is not written out"] = None
        if inner.text is not None and re.search(r"\b(curl|wget|base64|nc)\b", inner.text.text):
            found.fed.append(inner.via)
    if inner.text is not None and (inner.is_known or not re.search(r"\$\(|`", inner.text.text)):
        _read_text(inner.text.text, found, via=via, depth=depth + 1)
    elif inner.argv and depth < MAX_DEPTH:
        started = replace(command, argv=inner.argv, via=via, is_readable=inner.is_known)
        extra = (*command.assignments, *inner.assignments)
        _add(replace(started, assignments=extra), found, depth=depth + 1)
    elif inner.argv:
        found.problems["commands within commands, too deep to follow"] = None


def _read_fed(command: Command, found: _Found, *, depth: int) -> None:
    """Text that a redirect feeds in: a shell's is read as shell, an interpreter's for its hosts, others mention."""
    for redirect in command.redirects:
        if redirect.operator not in ("<<", "<<<"):
            continue
        program = command.program
        if program in SHELLS:
            _read_text(redirect.target.text, found, via=(*command.via, program), depth=depth + 1)
        else:
            is_opened = bool(program) and program not in MENTIONING
            found.mentions.extend(urls_in(redirect.target.text, program=program, is_opened=is_opened))


def _fed(commands: list[Command]) -> Iterator[str]:
    """Shells and interpreters that run what reaches them through a pipe or a process substitution."""
    for place, command in enumerate(commands):
        program = command.program
        if program not in SHELLS | INTERPRETERS | {"source", "."}:
            continue
        words = command.argv[1:]
        if any(word.text.startswith("<(") for word in words):
            yield program
        is_later = command.pipeline >= 0 and any(other.pipeline == command.pipeline for other in commands[:place])
        if is_later and not any(not word.text.startswith("-") for word in words):
            yield program
        if is_later and any(word.text in ("-", "/dev/stdin", "-s") for word in words):
            yield program


def _sent(commands: list[Command]) -> Iterator[str]:
    for place, command in enumerate(commands):
        for name in sent_by(command):
            if name not in ("-", "."):
                yield name
                continue
            before = [other for other in commands[:place] if other.pipeline == command.pipeline >= 0]
            yield f"standard input from {before[-1].words[:200]}" if before else "standard input"


def _scripts(found: _Found) -> Iterator[str]:
    """Files of the workspace that would be executed, also as seen from each folder that the text enters."""
    for command in found.commands:
        for name in _executed(command):
            for folder in ("", *found.folders[:20]):
                path = posixpath.normpath(posixpath.join("/workspace", folder, name))
                yield path.removeprefix("/workspace/")


def _executed(command: Command) -> Iterator[str]:
    program, words = command.program, [word.text for word in command.argv[1:]]
    if command.argv and command.argv[0].is_static and "/" in command.argv[0].text:
        yield command.argv[0].text
    if program in ("source", "."):
        yield from words[:1]
    elif program in SHELLS or program in INTERPRETERS or re.match(r"^python[0-9.]*$", program):
        if "-m" in words[:-1]:
            module = words[words.index("-m") + 1].replace(".", "/")
            yield from (f"{module}.py", f"{module}/__main__.py")
        elif "-c" not in words:
            yield from [word for word in words if word and not word.startswith("-")][:1]
        yield from (r.target.text for r in command.redirects if r.operator == "<")
    yield from _BUILD_FILES.get(program, ())
    if program == "make" and "-f" in words[:-1]:
        yield words[words.index("-f") + 1]


def _outside(commands: list[Command]) -> Iterator[str]:
    """Paths that lead out of the workspace. The kernel decides; a person should see them."""
    for command in commands:
        named = [word.text for word in command.argv[1:]] + [
            r.target.text for r in command.redirects if "<<" not in r.operator
        ]
        for text in named:
            value = text.partition("=")[2] if text.startswith("-") and "=" in text else text.lstrip("@")
            if not value or len(value) > 4096 or "\n" in value or "://" in value:
                continue
            if value.startswith(("~", "$HOME", "${HOME}")):
                yield value
            elif value.startswith(("/", "..")) or "/.." in value:
                path = posixpath.normpath(posixpath.join("/workspace", value))
                if path != "/workspace" and not path.startswith(("/workspace/", "/dev/null", "/dev/std", "/dev/fd")):
                    yield path if value.startswith("/") else value


def is_download(command: Command) -> bool:
    """The command fetches something from the network by its own name."""
    return fetches(command.program)
