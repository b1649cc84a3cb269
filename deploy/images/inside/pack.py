#!/usr/bin/env python3
"""Makes the tree that is copied into every sandbox pod: a self-contained Python and the in-sandbox server.

Any image must be able to run it, one without a libc or git included, so the tree carries git, a dynamic loader of its
own and every library that these and Python's modules need; nothing of the image's own is used. Standard library only.

    pack.py OUT --server sandbox/ringfence_sandbox/inside

OUT/lib/ld.so --library-path OUT/lib OUT/bin/python3 -I -S …   starts the server (its code is OUT/server.zip)
OUT/install.py TARGET                                          is the init container's work
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

PT_INTERP = 3
LOADER = b"/ringfence/lib/ld.so"
"""Where the loader lies in every pod."""
LEFT_OUT = {
    "test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "distutils", "pydoc_data",
    "site-packages", "dist-packages", "lib-dynload", "__pycache__", "config", "msilib", "sqlite3", "dbm", "curses",
    "__phello__", "venv", "wsgiref", "xmlrpc",
}  # fmt: skip
LEFT_OUT_MODULES = re.compile(
    r"_test|xx|_curses|_dbm|_gdbm|_tkinter|nis|ossaudiodev|readline|_sqlite3|audioop|_codecs_"
)


def libraries(program: Path) -> dict[str, Path]:
    """What the dynamic loader maps for a program or module: name → file. The loader itself is `ld.so`."""
    listed = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True).stdout
    found: dict[str, Path] = {}
    for line in listed.splitlines():
        if match := re.match(r"\s*(\S+) => (/\S+)", line):
            found[match[1]] = Path(match[2]).resolve()
        elif match := re.match(r"\s*(/\S*ld-linux\S*|/\S*ld-musl\S*)", line):
            found["ld.so"] = Path(match[1]).resolve()
    return found


def put_program(source: Path, target: Path) -> None:
    """Copy a program so that it starts through our own loader, also where another program starts it by its name.

    The path of the loader stands in the segment PT_INTERP (ELF-64, System V gABI chapter 5), which the kernel reads.
    """
    content = bytearray(source.read_bytes())
    if content[:6] != b"\x7fELF\x02\x01":
        raise SystemExit(f"{source} is no 64-bit little-endian ELF program")
    at, size, count = struct.unpack_from("<Q", content, 0x20)[0], *struct.unpack_from("<HH", content, 0x36)
    for header in range(at, at + size * count, size):
        if struct.unpack_from("<I", content, header)[0] == PT_INTERP:
            offset, length = (struct.unpack_from("<Q", content, header + place)[0] for place in (8, 0x20))
            if len(LOADER) >= length:
                raise SystemExit(f"{source} leaves no room for the loader's path")
            content[offset : offset + length] = LOADER.ljust(length, b"\0")
    target.write_bytes(content)


def pack_library(stdlib: Path, archive: Path) -> None:
    """The standard library, compiled, in one stored zip: few files to copy, nothing to decompress."""
    with zipfile.PyZipFile(archive, "w", zipfile.ZIP_STORED, optimize=0) as out:
        for entry in sorted(stdlib.iterdir()):
            if entry.name in LEFT_OUT or entry.name.startswith("config-"):
                continue
            if entry.suffix == ".py" or (entry / "__init__.py").exists():
                out.writepy(str(entry), filterfunc=lambda path: not LEFT_OUT & set(Path(path).parts[-2:]))


def pack(out: Path, server: Path) -> None:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    shutil.rmtree(out, ignore_errors=True)
    dynload = out / "lib" / version / "lib-dynload"
    for folder in (out / "bin", dynload):
        folder.mkdir(parents=True)
    executable = Path(sys.executable).resolve()
    put_program(executable, out / "bin" / "python3")
    needed = libraries(executable)
    git = Path(shutil.which("git") or sys.exit("git is not installed")).resolve()
    put_program(git, out / "bin" / "git")
    needed |= libraries(git)
    for name in ("libnss_files.so.2", "libgcc_s.so.1"):  # loaded by name at run time, so ldd does not list them
        for folder in ("/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu"):
            if (found := Path(folder) / name).exists():
                needed[name] = found.resolve()
    for module in sorted(Path(sysconfig.get_path("stdlib"), "lib-dynload").glob("*.so")):
        if not LEFT_OUT_MODULES.match(module.name):
            shutil.copy2(module, dynload / module.name)
            needed |= libraries(module)
    for name, path in needed.items():
        shutil.copy2(path, out / "lib" / name)
    stdlib = Path(sysconfig.get_path("stdlib"))
    shutil.copy2(stdlib / "os.py", out / "lib" / version / "os.py")  # the landmark by which Python finds its home
    pack_library(stdlib, out / "lib" / f"{version.replace('.', '')}.zip")
    # compiled from a copy: PyZipFile leaves its caches beside the sources
    scratch = out / "scratch" / "inside"
    shutil.copytree(server, scratch, ignore=shutil.ignore_patterns("__pycache__"))
    with zipfile.PyZipFile(out / "server.zip", "w", zipfile.ZIP_STORED, optimize=1) as archive:
        archive.writepy(str(scratch))
    shutil.rmtree(scratch.parent)
    shutil.copy2(Path(__file__).with_name("install.py"), out / "install.py")
    for folder, _, files in os.walk(out):
        Path(folder).chmod(0o755)
        for name in files:
            path = Path(folder, name)
            path.chmod(0o755 if path.parent.name == "bin" or path.name == "ld.so" else 0o644)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--server", type=Path, required=True)
    args = parser.parse_args()
    pack(args.out, args.server)


if __name__ == "__main__":
    main()
