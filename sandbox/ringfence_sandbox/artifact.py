"""Packs the in-sandbox server into one file, which the local backend binds in and images carry.

The file is a zip archive of the package that any Python from 3.8 runs by its name. Compiled for this very Python it
begins with the modules that a start needs, as one piece of code: found and read one by one they cost three milliseconds
more, of a start that is promised in twenty-five.
"""

from __future__ import annotations

import importlib.util
import io
import marshal
import os
import zipfile
from importlib.resources import files
from pathlib import Path
from types import CodeType

PACKAGE = "inside"
MAIN = "from inside.server import main\nmain()\n"
AT_START = (
    "wire", "kernel", "loop", "processes", "capture", "settings", "keeper", "channel", "journal", "layers", "calls",
    "server",
)  # fmt: skip
"""Each after what it imports."""
BOOT = (
    "import sys,marshal\n"
    "path=sys.argv.pop(1);file=open(path,'rb')\n"
    "kind=type(sys);package=sys.modules['inside']=kind('inside');package.__path__=[path+'/inside']\n"
    "for name,code in marshal.loads(file.read(int.from_bytes(file.read(8),'big'))):\n"
    "  module=sys.modules['inside.'+name]=kind('inside.'+name);module.__package__='inside'\n"
    "  setattr(package,name,module);exec(code,module.__dict__)\n"
    "file.close();module.main()\n"
)
"""For `python3 -I -S -c BOOT FILE --config …`, where FILE was compiled for that Python."""


def sources() -> dict[str, str]:
    """The server's modules by file name."""
    folder = files("ringfence_sandbox").joinpath(PACKAGE)
    return {entry.name: entry.read_text() for entry in folder.iterdir() if entry.name.endswith(".py")}


def pack(*, is_compiled: bool) -> bytes:
    """The archive's bytes, the same for the same sources: `python3 -I -S FILE` runs it.

    `is_compiled` makes it for this very Python and `BOOT`; any other Python must be given the sources.
    """
    found = sources()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, "__main__.py", MAIN.encode())
        for name, text in sorted(found.items()):
            if is_compiled:
                code = marshal.dumps(_compiled(name, text))
                # What a .pyc holds: magic number, "by hash, unchecked", the hash, the code.
                header = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8)
                _add(archive, f"{PACKAGE}/{name}c", header + code)
            else:
                _add(archive, f"{PACKAGE}/{name}", text.encode())
    return (_start(found) if is_compiled else b"") + buffer.getvalue()


def _start(found: dict[str, str]) -> bytes:
    code = [(name, _compiled(f"{name}.py", found[f"{name}.py"])) for name in AT_START]
    data = marshal.dumps(code)
    return len(data).to_bytes(8, "big") + data


def _compiled(name: str, text: str) -> CodeType:
    code: CodeType = compile(text, f"/ringfence/{PACKAGE}/{name}", "exec", dont_inherit=True, optimize=2)
    return code


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, date_time=(2020, 1, 1, 0, 0, 0)), data)


def write_artifact(path: Path, *, is_compiled: bool = False) -> Path:
    """Write the archive to `path`, atomically. Returns the path."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    fresh.write_bytes(pack(is_compiled=is_compiled))
    fresh.chmod(0o644)
    fresh.replace(path)
    return path
