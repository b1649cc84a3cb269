"""What the demo plays on: a fresh copy of the sample project, notes outside it, a profile, and a state folder."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ringfence.errors import Mistake
from ringfence.settings import Settings, load_settings, make_home

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

PROFILE = """\
apiVersion: ringfence.dev/v1
kind: Profile
metadata: {{name: demo, owner: owner, version: 1}}
description: The default profile, with cards that expire soon.
extends: default@1
unmatched: ask
rules:
  - {{id: net-unlisted, ask: [network], who: {{any: [owner]}}, expires: {wait}, widest_grant: task}}
  - {{id: upload, ask: [network], sends: true, who: {{any: [owner]}}, expires: {wait}, widest_grant: once}}
  - id: outside
    ask: [files]
    paths: ["{finance}/**"]
    who: {{any: [owner]}}
    expires: {wait}
    widest_grant: once
  - id: keys
    forbid: [files]
    paths: ["/home/*/.ssh/**"]
    say: Keys are never part of a task. Work with the files under /workspace.
"""


NOTES = """\
# Rounding, by the finance team

F-7  Half a cent is rounded up.
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """Paths of one showing. `settings` point at a state folder of its own."""

    repository: Path
    profile: Path
    transcript: Path
    settings: Settings


@contextmanager
def staged(*, card_wait: str) -> Iterator[Stage]:
    """Set the stage; everything is gone afterwards. `card_wait` is how long a card waits, such as `3s`."""
    if not (EXAMPLES / "invoices").is_dir():
        raise Mistake("the sample project is not here", fix="Run the demo from a checkout of Ringfence: make demo")
    usual = load_settings()
    make_home(usual)
    # Not below /tmp, which is the sandbox's own inside: the notes are to be shown there when a person says so.
    with tempfile.TemporaryDirectory(prefix="demo-", dir=usual.home) as folder:
        root = Path(folder)
        finance = root / "finance"
        finance.mkdir()
        (finance / "rounding.md").write_text(NOTES)
        repository = root / "invoices"
        shutil.copytree(EXAMPLES / "invoices", repository, ignore=shutil.ignore_patterns("__pycache__"))
        _commit(repository)
        profile = root / "demo.yaml"
        profile.write_text(PROFILE.format(wait=card_wait, finance=finance))
        transcript = root / "transcript.jsonl"
        recorded = (EXAMPLES / "demo" / "transcript.jsonl").read_text(encoding="utf-8")
        transcript.write_text(recorded.replace("@FINANCE@", str(finance)), encoding="utf-8")
        settings = load_settings(home=root / "state")
        yield Stage(repository, profile, transcript, settings)


def _commit(repository: Path) -> None:
    identity = ("-c", "user.name=Demo", "-c", "user.email=demo@example.org")
    for arguments in (("init", "-q", "-b", "main"), ("add", "-A"), ("commit", "-q", "-m", "Invoices with tax")):
        try:
            subprocess.run(["git", *identity, *arguments], cwd=repository, check=True, capture_output=True, timeout=60)
        except FileNotFoundError as error:
            raise Mistake("git is not installed", fix="Install git with your package manager") from error
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode(errors="replace").strip()[:200]
            raise Mistake(f"git could not commit the sample project: {said}", fix="Check `git --version`") from error
