"""The `/etc` of every local sandbox: a folder of ours, bound in whole, since every mount costs a start a third of a
millisecond.

It holds a short list of what programs need to start, resolve users and check certificates, copied from the machine
where everybody may read it; users, hosts and name service are ours.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

COPIED = (
    "alternatives", "ca-certificates", "ca-certificates.conf", "crypto-policies", "debian_version", "fonts",
    "gai.conf", "host.conf", "inputrc", "java-11-openjdk", "java-17-openjdk", "java-21-openjdk", "java", "ld.so.cache",
    "ld.so.conf", "ld.so.conf.d", "locale.alias", "localtime", "magic", "magic.mime", "maven", "mime.types",
    "os-release", "pki", "protocols", "redhat-release", "services", "shells", "ssl", "terminfo", "timezone",
)  # fmt: skip
FILE_CEILING = 8 << 20
USERS = (
    "root:x:0:0:root:/root:/usr/sbin/nologin\n"
    "agent:x:1000:1000:agent:/home/agent:/bin/bash\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
)
FILES = {
    "passwd": USERS,
    "group": "root:x:0:\nagent:x:1000:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost ip6-localhost\n",
    "hostname": "sandbox\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
    # No resolver is reachable: names are the egress proxy's business. The short timeout makes that plain at once.
    "resolv.conf": "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
    "profile": "umask 022\n",
    "gitconfig": "[safe]\n\tdirectory = *\n[init]\n\tdefaultBranch = main\n",
}


def prepared_etc(root: Path) -> Path:
    """The folder for this machine's state, made where it is missing: `root/etc-DIGEST`, never changed once made."""
    folder = root / f"etc-{_digest()}"
    if folder.is_dir():
        return folder
    fresh = root / f".etc-{os.getpid()}-{os.urandom(4).hex()}"
    fresh.mkdir(mode=0o755, parents=True)
    try:
        _fill(fresh)
        fresh.rename(folder)
    except OSError:
        shutil.rmtree(fresh, ignore_errors=True)
        if not folder.is_dir():
            raise
    return folder


def _fill(folder: Path) -> None:
    for name in COPIED:
        _copy(Path("/etc") / name, folder / name)
    for name, text in FILES.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o644)


def _copy(source: Path, target: Path) -> None:
    """Copy what everybody may read. A link that leads to another place in /etc is copied as what it leads to."""
    if source.is_symlink() and not str(source.readlink()).startswith(("/etc/", "..")):
        target.symlink_to(source.readlink())
        return
    try:
        status = source.stat()
    except OSError:
        return
    if stat.S_ISDIR(status.st_mode):
        if status.st_mode & stat.S_IROTH:
            target.mkdir(mode=0o755)
            for entry in sorted(source.iterdir()):
                _copy(entry, target / entry.name)
    elif stat.S_ISREG(status.st_mode) and status.st_mode & stat.S_IROTH and status.st_size <= FILE_CEILING:
        shutil.copyfile(source, target)
        target.chmod(0o644 | (status.st_mode & 0o111))


def _digest() -> str:
    digest = hashlib.sha256(repr(sorted(FILES.items())).encode())
    for name in COPIED:
        for path in _walk(Path("/etc") / name):
            try:
                status = path.stat()
            except OSError:
                continue
            digest.update(f"{path}\0{status.st_mtime_ns}\0{status.st_size}\0{status.st_mode}\0".encode())
    return digest.hexdigest()[:16]


def _walk(path: Path) -> Iterator[Path]:
    """What may be copied: `/etc/ssl/private` and its like are not even listed, whoever runs this."""
    yield path
    if path.is_dir() and not path.is_symlink() and path.stat().st_mode & stat.S_IROTH:
        for entry in sorted(path.iterdir()):
            yield from _walk(entry)
