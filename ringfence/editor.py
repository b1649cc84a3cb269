"""A person's own editor, for what is too long for a prompt."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path

from ringfence.errors import Mistake


def edit_text(before: str, *, suffix: str) -> str:
    """What the person leaves in the file. `$VISUAL` or `$EDITOR` is run as they set it. Raises `Mistake`."""
    command = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    with tempfile.TemporaryDirectory(prefix="ringfence-edit-") as folder:
        path = Path(folder) / f"edit{suffix}"
        path.write_text(before, encoding="utf-8")
        try:
            code = subprocess.run([*command, str(path)], check=False).returncode
        except OSError as error:
            raise Mistake(f"the editor {command[0]} does not start ({error.strerror})", fix="Set EDITOR") from error
        if code != 0:
            raise Mistake(f"the editor {command[0]} ended with {code}", fix="Nothing was changed; try again")
        return path.read_text(encoding="utf-8", errors="replace")
