"""Commands that start other commands: what `sudo`, `env`, `xargs`, `timeout`, `bash -c` and their like would run.

Pure. A wrapper whose options are not all known yields a command that is marked unreadable: skipping the wrong number
of words would show a person another program than the one that runs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ringfence_tools.shell_reading_parts import Word

SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "ash", "rbash", "mksh"})
INTERPRETERS = frozenset(
    {"python", "python2", "python3", "perl", "ruby", "node", "nodejs", "php", "lua", "deno", "bun"}
)
_ASSIGNMENT = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*=", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Wrapper:
    """`valued` options take the next word; `flags` take none; `skip` positional words come before the command."""

    valued: frozenset[str] = frozenset()
    flags: frozenset[str] = frozenset()
    skip: int = 0
    takes_assignments: bool = False
    feeds_arguments: bool = False


def _wrapper(
    valued: str = "", flags: str = "", *, skip: int = 0, assigns: bool = False, feeds: bool = False
) -> _Wrapper:
    return _Wrapper(frozenset(valued.split()), frozenset(flags.split()), skip, assigns, feeds)


_WRAPPERS = {
    "env": _wrapper("-u --unset -C --chdir", "-i --ignore-environment -0 --null -v --debug -", assigns=True),
    "sudo": _wrapper(
        "-u --user -g --group -h --host -p --prompt -C --close-from -D --chdir -r --role -t --type -T -R --chroot -U",
        "-A -b -E -e -H -i -K -k -l -n -P -S -s -V -v --login --shell --non-interactive --stdin --preserve-env",
        assigns=True,
    ),
    "doas": _wrapper("-u -C", "-n -s -L"),
    "xargs": _wrapper(
        "-a --arg-file -d --delimiter -E -I --replace -L --max-lines -n --max-args -P --max-procs -s --max-chars",
        "-0 --null -o -p --interactive -r --no-run-if-empty -t --verbose -x --exit --show-limits",
        feeds=True,
    ),
    "parallel": _wrapper("-j --jobs -a -I -n -N -L -d -S", "-k -0 -u -X -m -v -t --null --keep-order", feeds=True),
    "nohup": _wrapper(),
    "setsid": _wrapper("", "-c -f -w --ctty --fork --wait"),
    "nice": _wrapper("-n --adjustment"),
    "ionice": _wrapper("-c -n -p --class --classdata", "-t --ignore"),
    "timeout": _wrapper("-k --kill-after -s --signal", "-v --verbose --foreground --preserve-status", skip=1),
    "time": _wrapper("-f --format -o --output", "-p -v -a --portability --verbose --append"),
    "stdbuf": _wrapper("-i -o -e --input --output --error"),
    "exec": _wrapper("-a", "-c -l"),
    "command": _wrapper("", "-p -v -V"),
    "builtin": _wrapper(),
    "chroot": _wrapper("", "--skip-chdir", skip=1),
    "unshare": _wrapper("", "-r -n -m -p -f -U -u -i --net --map-root-user --fork --pid --mount"),
    "strace": _wrapper("-e -o -s -p", "-f -ff -q -qq -v -y -t -tt -c"),
    "watch": _wrapper("-n --interval", "-d -t -e -g -x -b -c"),
    "busybox": _wrapper(),
    "uv": _wrapper(),
    "poetry": _wrapper(),
    "pipenv": _wrapper(),
}
_RUNNERS = frozenset({"uv", "poetry", "pipenv"})


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """What a command starts: another argument list, or a text that a shell reads; `is_known` False: cannot be told."""

    via: str
    argv: tuple[Word, ...] = ()
    text: Word | None = None
    assignments: tuple[str, ...] = ()
    is_known: bool = True


def unwrap(argv: tuple[Word, ...], program: str) -> Unwrapped | None:
    """What this command would start, or None where it starts nothing that is written out."""
    if program in SHELLS:
        return _shell_text(argv, program)
    if program == "eval":
        words = argv[1:]
        text = Word(" ".join(word.text for word in words), is_static=all(word.is_static for word in words))
        return Unwrapped("eval", text=text, is_known=text.is_static)
    if program == "find":
        return _find_exec(argv)
    if program in _RUNNERS:
        if len(argv) > 2 and argv[1] == Word("run"):
            return _strip((argv[0], *argv[2:]), program, _WRAPPERS[program])
        return None
    if program in _WRAPPERS:
        return _strip(argv, program, _WRAPPERS[program])
    return None


def _shell_text(argv: tuple[Word, ...], program: str) -> Unwrapped | None:
    """`bash -c TEXT`, also among bundled options (`-ec`)."""
    for place, word in enumerate(argv[1:], start=1):
        if not word.is_static:
            return Unwrapped(program, is_known=False)
        if re.match(r"^-[a-zA-Z]*c[a-zA-Z]*$", word.text):
            # Options may stand between -c and its text: bash takes the first word that is not one.
            rest = [
                later for later in argv[place + 1 :] if not later.text.startswith(("-", "+")) or not later.is_static
            ]
            if not rest:
                return None
            return Unwrapped(f"{program} -c", text=rest[0], is_known=rest[0].is_static)
        if word.text in ("-o", "+o", "-O", "+O", "--rcfile", "--init-file"):
            continue
        if not word.text.startswith(("-", "+")):
            return None
    return None


def _find_exec(argv: tuple[Word, ...]) -> Unwrapped | None:
    for place, word in enumerate(argv):
        if word.text in ("-exec", "-execdir", "-ok", "-okdir"):
            rest = argv[place + 1 :]
            end = next((i for i, later in enumerate(rest) if later.text in (";", "+")), len(rest))
            inner = tuple(Word(w.text, is_static=w.is_static and "{}" not in w.text) for w in rest[:end])
            return Unwrapped("find -exec", argv=inner)
    return None


def _strip(argv: tuple[Word, ...], program: str, wrapper: _Wrapper) -> Unwrapped | None:
    place, skip = 1, wrapper.skip
    assignments: list[str] = []
    while place < len(argv):
        word = argv[place]
        text = word.text
        if not word.is_static:
            return Unwrapped(program, argv=argv[place:], is_known=False)
        if text == "--":
            place += 1
            wrapper = _Wrapper(skip=wrapper.skip, takes_assignments=wrapper.takes_assignments)
        elif program == "env" and (text == "-S" or text.startswith(("-S", "--split-string"))):
            return Unwrapped(program, argv=argv[place:], is_known=False)
        elif text.startswith("-") and text not in ("-",):
            step = _option(text, wrapper)
            if step == 0:
                return Unwrapped(program, argv=argv[place:], is_known=False)
            place += step
        elif wrapper.takes_assignments and _ASSIGNMENT.match(text):
            assignments.append(text)
            place += 1
        elif skip:
            skip -= 1
            place += 1
        else:
            break
    inner = argv[place:]
    if not inner:
        return None
    if wrapper.feeds_arguments:
        inner = (*inner, Word("…", is_static=False))
    return Unwrapped(program, argv=inner, assignments=tuple(assignments))


def _option(text: str, wrapper: _Wrapper) -> int:
    """How many words an option takes; 0 where it is not known."""
    name, equals, _ = text.partition("=")
    if text in wrapper.flags or (equals and name in wrapper.valued):
        return 1
    if text in wrapper.valued:
        return 2
    short = text[:2]
    if not text.startswith("--") and len(text) > 2:
        if short in wrapper.valued:
            return 1
        bundled = [f"-{letter}" for letter in text[1:]]
        if all(letter in wrapper.flags for letter in bundled):
            return 1
        if all(letter in wrapper.flags for letter in bundled[:-1]) and bundled[-1] in wrapper.valued:
            return 2
    return 1 if re.match(r"^-[0-9]+$", text) and "-n" in wrapper.valued else 0
