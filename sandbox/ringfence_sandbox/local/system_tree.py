"""The read-only system that every local sandbox sees: programs and libraries, nothing of anyone.

`/etc` is a short list of what programs need to start, resolve users and check certificates; users and hosts are ours.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ringfence_sandbox.contract import Mount

ROOT_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
ETC = (
    "alternatives",
    "ca-certificates",
    "ca-certificates.conf",
    "debian_version",
    "fonts",
    "gai.conf",
    "host.conf",
    "inputrc",
    "java-11-openjdk",
    "java-17-openjdk",
    "java-21-openjdk",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "localtime",
    "magic",
    "magic.mime",
    "maven",
    "mime.types",
    "os-release",
    "pki",
    "protocols",
    "profile.d",
    "services",
    "shells",
    "ssl",
    "terminfo",
    "timezone",
)
NOT_IN_SSL = "private"
ACCOUNTS = (
    "root:x:0:0:root:/root:/usr/sbin/nologin\n"
    "agent:x:1000:1000:agent:/home/agent:/bin/bash\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
)
GROUP = "root:x:0:\nagent:x:1000:\nnogroup:x:65534:\n"
FILES = {
    "passwd": ACCOUNTS,
    "group": GROUP,
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost ip6-localhost\n",
    "hostname": "sandbox\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
    # No resolver is reachable: names are the egress proxy's business. The short timeout makes that plain at once.
    "resolv.conf": "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
    "profile": "umask 022\n",
}


@dataclass(frozen=True, slots=True)
class SystemTree:
    """What is shown of the machine itself. `links` are symbolic links (target, path) in the sandbox's root."""

    mounts: tuple[Mount, ...]
    links: tuple[tuple[str, str], ...]
    python: str
    """The Python that runs the in-sandbox server, as a path inside."""


def write_etc(folder: Path) -> None:
    """Write the `/etc` files that are ours into a folder of the host; each is bound in by its name."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    for name, text in FILES.items():
        target = folder / name
        if not target.exists() or target.read_text() != text:
            fresh = folder / f".{name}.{os.getpid()}"
            fresh.write_text(text)
            fresh.chmod(0o644)
            fresh.replace(target)


def system_tree(etc: Path) -> SystemTree:
    """The system of this machine; `etc` holds what `write_etc` wrote."""
    mounts = [Mount(Path("/usr"), PurePosixPath("/usr"))]
    links = []
    for name in ROOT_LINKS:
        path = Path("/") / name
        if path.is_symlink():
            links.append((str(path.readlink()), f"/{name}"))
        elif path.is_dir():
            mounts.append(Mount(path, PurePosixPath(f"/{name}")))
    mounts += [Mount(etc / name, PurePosixPath("/etc") / name) for name in FILES]
    for name in ETC:
        path = Path("/etc") / name
        if path.exists():
            mounts.append(Mount(path.resolve(), PurePosixPath("/etc") / name))
    mounts += _python_mounts()
    return SystemTree(tuple(mounts), tuple(links), server_python())


def server_python() -> str:
    """The interpreter that runs this process, outside any virtual environment."""
    executable = getattr(sys, "_base_executable", sys.executable)
    return os.path.realpath(executable)


def _python_mounts() -> Sequence[Mount]:
    prefix = Path(sys.base_prefix).resolve()
    if prefix == Path("/usr") or prefix.is_relative_to("/usr"):
        return ()
    return (Mount(prefix, PurePosixPath(prefix)),)
