"""The control plane's image for the test cluster, packed without a container engine from what is installed here.

As `deploy/images/ringfence.Containerfile` builds it: what Ringfence needs, and the wheel of this very checkout.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import importlib.metadata
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.cluster_tests.node import RECIPES, ROOT, Cluster, cache

SITE = "usr/local/lib/python3.11/dist-packages"
SOURCES = ("audit", "sandbox", "tools", "agents", "ringfence", "examples")
PASSWD = "root:x:0:0:root:/root:/bin/sh\nringfence:x:10001:10001::/tmp:/bin/sh\n"
SCRIPT = "#!/usr/bin/python3\nfrom ringfence.cli import main\nmain()\n"


def loaded_image(cluster: Cluster) -> str:
    """The image's reference, once the node has it. Packed anew only when a source or a lock has changed."""
    with (cache() / "control.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        reference = f"ringfence.test/ringfence:{_digest()}"
        archive = cache() / f"control-{reference.rpartition(':')[2]}.tar"
        if not archive.exists():
            for old in cache().glob("control-*.tar"):
                old.unlink()
            _pack(archive, reference)
    cluster.load(archive)
    return reference


def _needed() -> dict[str, str]:
    """Name → version of everything that `pyproject.toml` comes down to, as it is installed here."""
    wanted = [
        Requirement(line) for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    ]
    found: dict[str, str] = {}
    while wanted:
        one = wanted.pop()
        name = canonicalize_name(one.name)
        extras = one.extras or {""}
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        if found.get(name) == distribution.version and not one.extras:
            continue
        found[name] = distribution.version
        for line in distribution.requires or ():
            further = Requirement(line)
            if further.marker is None or any(further.marker.evaluate({"extra": extra}) for extra in extras):
                wanted.append(further)
    return found


def _digest() -> str:
    """Of everything that is packed."""
    digest = hashlib.sha256(repr(sorted(_needed().items())).encode() + SCRIPT.encode())
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _pack(archive: Path, reference: str) -> None:
    with tempfile.TemporaryDirectory(prefix="ringfence-image-") as folder:
        work = Path(folder)
        layers = [_base_layer(work), _dependencies(), _application(work)]
        command = [
            sys.executable,
            str(RECIPES / "image.py"),
            str(archive),
            reference,
            "--plain",
            "--user",
            "10001:10001",
        ]
        for layer in layers:
            command += ["--layer", str(layer)]
        subprocess.run([*command, "--entrypoint", "ringfence"], check=True)


def _base_layer(work: Path) -> Path:
    """The root file system of the test image: Debian with Python and git."""
    with tarfile.open(cache() / "bin" / "python.image.tar") as image:
        index = json.load(_member(image, "index.json"))
        manifest = json.load(_member(image, _blob(index["manifests"][0]["digest"])))
        packed = _member(image, _blob(manifest["layers"][0]["digest"]))
        found = work / "base.tar"
        with gzip.open(packed) as plain, found.open("wb") as out:
            shutil.copyfileobj(plain, out)
    return found


def _member(image: tarfile.TarFile, name: str) -> tarfile.ExFileObject:
    found = image.extractfile(name)
    assert isinstance(found, tarfile.ExFileObject)
    return found


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _dependencies() -> Path:
    """What Ringfence needs, as it is installed here, with its bytecode. Made once for each set of versions."""
    needed = _needed()
    layer = cache() / f"dependencies-{hashlib.sha256(repr(sorted(needed.items())).encode()).hexdigest()[:12]}.tar"
    if layer.exists():
        return layer
    for old in cache().glob("dependencies-*.tar"):
        old.unlink()
    with tempfile.TemporaryDirectory(prefix="ringfence-dependencies-") as folder:
        site = Path(folder) / SITE
        for name in needed:
            _copy_distribution(name, site)
        subprocess.run([sys.executable, "-m", "compileall", "-q", "-j", "2", str(site)], check=False)
        draft = layer.with_suffix(".draft")
        _tar(Path(folder), draft)
        draft.rename(layer)
    return layer


def _copy_distribution(name: str, site: Path) -> None:
    found = importlib.metadata.distribution(name)
    for file in found.files or ():
        source = Path(str(found.locate_file(file)))
        if ".." in file.parts or "__pycache__" in file.parts or not source.is_file():
            continue
        target = site / str(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


def _application(work: Path) -> Path:
    """The wheel, unpacked, the command, the user, and the examples."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(work), str(ROOT)], check=True)
    (wheel,) = work.glob("ringfence-*.whl")
    tree = work / "tree"
    site = tree / SITE
    site.mkdir(parents=True)
    shutil.unpack_archive(wheel, site, "zip")
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(site)], check=True)
    command = tree / "usr/local/bin/ringfence"
    command.parent.mkdir(parents=True)
    command.write_text(SCRIPT)
    command.chmod(0o755)
    (tree / "etc").mkdir()
    (tree / "etc/passwd").write_text(PASSWD)
    shutil.copytree(ROOT / "examples", tree / "opt/ringfence/examples", ignore=shutil.ignore_patterns("__pycache__"))
    layer = work / "application.tar"
    _tar(tree, layer)
    return layer


def _tar(tree: Path, out: Path) -> None:
    def owned(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = 0
        info.uname = info.gname = "root"
        return info

    with tarfile.open(out, "w") as tar:
        for child in sorted(tree.iterdir()):
            tar.add(child, child.name, filter=owned)
