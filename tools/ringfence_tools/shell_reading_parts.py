"""What reading a shell text yields: words, commands, hosts. Plain data for policy, grants and card."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

SYSTEM_FOLDERS = tuple(f"{place}/{kind}" for place in ("", "/usr", "/usr/local") for kind in ("bin", "sbin"))
"""Where a sandbox's own programs lie; read-only inside."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word. `text` is its value as far as known; `is_static` is False where something is filled in at run time."""

    text: str
    is_static: bool = True


@dataclass(frozen=True, slots=True)
class Redirect:
    """`operator` is what stands there (`>`, `>>`, `<`, `<<<`, `<<`); `target` the file, or the text that is fed in."""

    operator: str
    target: Word


@dataclass(frozen=True, slots=True)
class Command:
    """One simple command. `via` names the commands that start it (`sudo`, `xargs`, `bash -c`), outermost first."""

    argv: tuple[Word, ...]
    assignments: tuple[str, ...] = ()
    redirects: tuple[Redirect, ...] = ()
    via: tuple[str, ...] = ()
    pipeline: int = -1
    """Commands that share a pipeline have the same number; -1 stands alone."""
    is_readable: bool = True
    """False where a wrapper's options could not be understood, so that the program may be another word."""
    wraps: bool = False
    """It only starts another command, which follows in the list and decides for it (`timeout`, `env`, `bash -c`)."""

    @property
    def program(self) -> str:
        """The program's name without its folder; "" where it is not known before it runs."""
        if not self.argv or not self.argv[0].is_static or not self.is_readable:
            return ""
        return posixpath.basename(self.argv[0].text)

    @property
    def words(self) -> str:
        """The command on one line, the program without its folder."""
        rest = [word.text for word in self.argv[1:]]
        return " ".join([self.program or (self.argv[0].text if self.argv else ""), *rest])

    @property
    def is_elsewhere(self) -> bool:
        """It is named by a path outside the system's folders: not the program that a rule means by its bare name."""
        folder = posixpath.dirname(self.argv[0].text) if self.argv else ""
        return folder not in ("", *SYSTEM_FOLDERS)

    @property
    def is_static(self) -> bool:
        return self.is_readable and all(word.is_static for word in self.argv)


@dataclass(frozen=True, slots=True)
class HostUse:
    """A host that the text names. `method` is "" where it cannot be told; `sends` says that bytes leave with it."""

    host: str
    port: int
    method: str = ""
    url: str = ""
    sends: bool = False
    is_opened: bool = True
    """False for a mere mention: a URL in a message, a searched text, a file being written."""
    shown: str = ""
    looks_like: str = ""
    is_disguised_address: bool = False
    program: str = ""

    @property
    def is_confusable(self) -> bool:
        return bool(self.looks_like)


@dataclass(frozen=True, slots=True)
class ShellReading:
    """All that could be read. `is_parsed` False: something is missing here, so whoever decides must ask."""

    text: str
    commands: tuple[Command, ...] = ()
    hosts: tuple[HostUse, ...] = ()
    paths: tuple[str, ...] = ()
    """Absolute, home or `..` paths that lead outside the workspace."""
    scripts: tuple[str, ...] = ()
    """Files that the text would execute, as workspace-relative paths where they lie inside."""
    sent: tuple[str, ...] = ()
    """What is sent: files, or `standard input from tar c .`."""
    shells_fed: tuple[str, ...] = ()
    """Interpreters that run what comes through a pipe, a substitution or the network."""
    is_parsed: bool = True
    problems: tuple[str, ...] = ()
