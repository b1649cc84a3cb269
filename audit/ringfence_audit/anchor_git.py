"""A git repository as an anchor: every checkpoint is a file of a commit, pushed to a server that refuses rewriting.

The server has to refuse what is not a fast-forward, and deletion (`receive.denyNonFastForwards`,
`receive.denyDeletes`, or a protected branch); `probe` tries both. Works over ssh, https and local paths with the `git`
of the machine, without any user's configuration.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from ringfence_audit.anchors import Offer, Probe, SinkRefused, SinkUnreachable
from ringfence_audit.errors import InvalidExport
from ringfence_audit.notes import parse_checkpoint, parse_note

TIMEOUT_S = 60
_NEWEST = 32
_ATTEMPTS = 3
_AUTHOR = {
    "GIT_AUTHOR_NAME": "ringfence",
    "GIT_AUTHOR_EMAIL": "ringfence@localhost",
    "GIT_COMMITTER_NAME": "ringfence",
    "GIT_COMMITTER_EMAIL": "ringfence@localhost",
}


class GitSink:
    """See `anchors.Sink`. `folder` holds a bare repository of our own, in which commits are made; it may be lost."""

    def __init__(self, name: str, remote: str, folder: Path, *, branch: str = "checkpoints") -> None:
        if remote.startswith("-") or branch.startswith("-") or not branch.replace("/", "").replace("-", "").isalnum():
            raise InvalidExport("a git anchor names a remote and a plain branch")
        self.name = name
        self._remote = remote
        self._folder = folder
        self._ref = f"refs/heads/{branch}"

    def publish(self, offer: Offer) -> str:
        path = f"{_log_folder(offer.origin)}/{offer.size:016d}"
        for _ in range(_ATTEMPTS):
            head = self._fetch()
            kept = self._kept(head, path)
            if kept is not None:
                return _agreeing(kept, offer)
            self._refuse_a_shorter_log(head, offer)
            commit = self._commit(head, path, offer.note, f"{offer.origin} {offer.size}")
            if self._push(f"{commit}:{self._ref}").returncode == 0:
                return offer.note
        raise SinkUnreachable(f"{self.name} takes no checkpoint: the push to {self._ref} was refused")

    def fetch(self, origin: str) -> Sequence[str]:
        head = self._fetch()
        if head is None:
            return ()
        listed = self._git("ls-tree", "-r", "--name-only", head, "--", f"{_log_folder(origin)}/").splitlines()
        return [self._git("cat-file", "blob", f"{head}:{path}") for path in sorted(listed)[-_NEWEST:]]

    def probe(self, origin: str) -> Sequence[Probe]:
        head = self._fetch()
        if head is None:
            raise SinkUnreachable(f"{self.name} holds nothing yet: anchor a checkpoint first")
        tree = self._git("rev-parse", f"{head}^{{tree}}").strip()
        orphan = self._git("commit-tree", tree, "-m", "probe: history rewritten").strip()
        return [
            self._attempt("rewrite the branch by force", f"+{orphan}:{self._ref}", head),
            self._attempt("delete the branch", f":{self._ref}", head),
        ]

    def _attempt(self, what: str, refspec: str, head: str) -> Probe:
        """Try it; where the server let it happen, put the old head back at once."""
        done = self._push(refspec)
        if done.returncode != 0 and self._fetch() == head:
            return Probe(what, is_refused=True, detail="the server refused it")
        self._push(f"+{head}:{self._ref}")
        return Probe(what, is_refused=False, detail="the server let it happen (the old head was put back)")

    def _refuse_a_shorter_log(self, head: str | None, offer: Offer) -> None:
        if head is None:
            return
        newest = list(self.fetch(offer.origin))[-1:]
        if newest and (size := parse_checkpoint(parse_note(newest[0]).text).size) > offer.size:
            raise SinkRefused(f"{self.name} holds a checkpoint of {size} entries, this log has only {offer.size}")

    def _kept(self, head: str | None, path: str) -> str | None:
        if head is None:
            return None
        done = self._run("cat-file", "blob", f"{head}:{path}")
        return done.stdout if done.returncode == 0 else None

    def _commit(self, head: str | None, path: str, note: str, message: str) -> str:
        index = self._folder / f"index-{os.getpid()}"
        extra = {"GIT_INDEX_FILE": str(index)}
        try:
            if head is not None:
                self._git("read-tree", head, extra=extra)
            blob = self._git("hash-object", "-w", "--stdin", text=note).strip()
            self._git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", extra=extra)
            tree = self._git("write-tree", extra=extra).strip()
        finally:
            index.unlink(missing_ok=True)
        parents = [] if head is None else ["-p", head]
        return self._git("commit-tree", tree, *parents, "-m", message).strip()

    def _fetch(self) -> str | None:
        """The remote branch's head, its objects here; None where there is no branch yet."""
        if not (self._folder / "HEAD").exists():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._git("init", "--quiet", "--bare")
        listed = self._git("ls-remote", "--", self._remote, self._ref).split()
        if not listed:
            return None
        self._git("fetch", "--quiet", "--no-tags", "--", self._remote, f"+{self._ref}:refs/anchor/head")
        return self._git("rev-parse", "refs/anchor/head").strip()

    def _push(self, refspec: str) -> subprocess.CompletedProcess[str]:
        return self._run("push", "--quiet", "--", self._remote, refspec)

    def _git(self, *arguments: str, text: str = "", extra: Mapping[str, str] | None = None) -> str:
        done = self._run(*arguments, text=text, extra=extra)
        if done.returncode != 0:
            said = done.stderr.strip().splitlines()[-1:] or ["no word"]
            raise SinkUnreachable(f"{self.name}: git {arguments[0]} failed: {said[0][:200]}")
        return done.stdout

    def _run(
        self, *arguments: str, text: str = "", extra: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        kept = ("PATH", "HOME", "SSH_AUTH_SOCK", "SSL_CERT_FILE")
        environment = {name: os.environ[name] for name in kept if name in os.environ}
        environment |= {
            "GIT_DIR": str(self._folder),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_SSH_COMMAND": "ssh -o BatchMode=yes",
            "GIT_ALLOW_PROTOCOL": "file:ssh:https",
            "LC_ALL": "C",
            **_AUTHOR,
            **(extra or {}),
        }
        try:
            return subprocess.run(
                ["git", *arguments],
                env=environment,
                input=text,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError) as error:
            raise SinkUnreachable(
                f"{self.name}: git {arguments[0]} could not be run ({type(error).__name__})"
            ) from error


def _log_folder(origin: str) -> str:
    """A folder for each log; the name is hashed, since an origin is not a file name."""
    return f"logs/{sha256(origin.encode()).hexdigest()[:32]}"


def _agreeing(kept: str, offer: Offer) -> str:
    if parse_checkpoint(parse_note(kept).text) != parse_checkpoint(parse_note(offer.note).text):
        raise SinkRefused(f"another log of {offer.size} entries was anchored before: one of the two is forged")
    return kept
