"""Packs the in-sandbox server into one file, which the local backend binds in and images carry."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import zipfile
from importlib.resources import files
from pathlib import Path

PACKAGE = "inside"
MAIN = "from inside.server import main\nmain()\n"
BOOT = "import sys;sys.path.insert(0,sys.argv.pop(1));from inside.server import main;main()"
"""For `python3 -I -S -c BOOT FILE --config …`: three milliseconds faster than running the file by its name."""


def sources() -> dict[str, str]:
    """The server's modules by file name."""
    folder = files("ringfence_sandbox").joinpath("inside")
    return {entry.name: entry.read_text() for entry in folder.iterdir() if entry.name.endswith(".py")}


def pack(*, is_compiled: bool) -> bytes:
    """The archive's bytes, the same for the same sources: `python3 -I -S FILE` runs it.

    `is_compiled` adds code for this very Python, which halves the start; any other Python must be given the sources.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, text in sorted({**{f"{PACKAGE}/{k}": v for k, v in sources().items()}, "__main__.py": MAIN}.items()):
            if is_compiled and name.startswith(PACKAGE):
                _add(archive, name + "c", _compiled(name, text))
            else:
                _add(archive, name, text.encode())
    return buffer.getvalue()


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, date_time=(2020, 1, 1, 0, 0, 0)), data)


def _compiled(name: str, text: str) -> bytes:
    """What a .pyc holds: magic number, "unchecked, by hash" flags, the source's hash, the code."""
    import marshal

    code = compile(text, f"/ringfence/{name}", "exec", dont_inherit=True, optimize=1)
    return importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8) + marshal.dumps(code)


def write_artifact(path: Path, *, is_compiled: bool = False) -> Path:
    """Write the archive to `path`, atomically. Returns the path."""
    data = pack(is_compiled=is_compiled)
    fresh = path.with_name(f".{path.name}.{hashlib.sha256(data).hexdigest()[:12]}")
    fresh.write_bytes(data)
    fresh.chmod(0o644)
    fresh.replace(path)
    return path
