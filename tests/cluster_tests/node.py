"""Where the cluster tests get a cluster from: a named one, a running one of ours, or one built and started here."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "tests" / "cluster"
INSIDE = ROOT / "deploy" / "images" / "inside"
SERVER = ROOT / "sandbox" / "ringfence_sandbox" / "inside"
STATE = Path("/var/lib/rf-cluster")
IMAGE = "ringfence.test/python:1"


class NoCluster(Exception):
    """No cluster can be had here; the text says why."""


@dataclass(frozen=True)
class Cluster:
    """A cluster to test on. `state` and `binaries` are None for one that somebody else runs."""

    kubeconfig: Path
    image: str
    inside_image: str
    pull_policy: str
    binaries: Path | None
    state: Path | None
    control_cidrs: tuple[str, ...]

    @property
    def is_ours(self) -> bool:
        """Whether its parts may be killed in fault tests."""
        return self.state is not None

    def program(self, name: str) -> str:
        """Path of `kubectl` or `helm`. Raises `NoCluster` where there is none."""
        found = str(self.binaries / name) if self.binaries else shutil.which(name)
        if not found:
            raise NoCluster(f"{name} is not on PATH")
        return found

    def in_node(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the node's namespaces."""
        return _cluster(self.binaries, "exec", *argv)

    def load(self, archive: Path) -> None:
        _cluster(self.binaries, "load", str(archive))


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ringfence" / "cluster"


def _cluster(binaries: Path | None, *argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(RECIPES / "cluster.py"), "--state", str(STATE), "--bin", str(binaries), *argv]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and argv[0] in ("up", "load"):
        raise NoCluster(done.stderr.strip()[-500:] or f"cluster.py {argv[0]} failed")
    return done


def _lacking() -> str:
    if platform.system() != "Linux":
        return "our test cluster needs Linux"
    if os.geteuid():
        return "our test cluster needs root"
    if not shutil.which("go") and not (cache() / "bin" / "stamp").exists():
        return "our test cluster is built with Go, which is not on PATH"
    return ""


def inside_archive(reference: str, out: Path) -> None:
    """Pack the image that carries the self-contained Python and the server, as an OCI archive."""
    interpreter = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
    tree = out.with_suffix(".tree")
    subprocess.run([interpreter, str(INSIDE / "pack.py"), str(tree), "--server", str(SERVER)], check=True)
    layer = out.with_suffix(".layer")
    with tarfile.open(layer, "w") as tar:
        tar.add(tree, "ringfence-image")
    home = "/ringfence-image"
    entry = [f"{home}/lib/ld.so", "--library-path", f"{home}/lib", f"{home}/bin/python3", "-I", "-S"]
    command = [sys.executable, str(RECIPES / "image.py"), str(out), reference, "--layer", str(layer), "--entrypoint"]
    subprocess.run([*command, *entry, f"{home}/install.py"], check=True)
    shutil.rmtree(tree)
    layer.unlink()


def inside_reference() -> str:
    """Named after its contents, so that a changed server is never served from an old image."""
    digest = hashlib.sha256()
    for path in sorted([*SERVER.rglob("*.py"), *INSIDE.rglob("*.py")]):
        digest.update(path.read_bytes())
    return f"ringfence.test/inside:{digest.hexdigest()[:12]}"


@contextmanager
def cluster() -> Iterator[Cluster]:
    """The cluster for one test session; taken down at its end if it was started here. Raises `NoCluster`."""
    named = os.environ.get("RINGFENCE_TEST_KUBECONFIG")
    if named and Path(named) == STATE / "admin.kubeconfig" and (STATE / "running.json").exists():
        yield _loaded(cache() / "bin")
        return
    if named:
        inside = os.environ.get("RINGFENCE_TEST_INSIDE_IMAGE")
        if not inside:
            raise NoCluster("RINGFENCE_TEST_KUBECONFIG needs RINGFENCE_TEST_INSIDE_IMAGE: an image that it can pull")
        image = os.environ.get("RINGFENCE_TEST_IMAGE", inside)
        yield Cluster(Path(named), image, inside, "IfNotPresent", None, None, ())
        return
    if lacking := _lacking():
        raise NoCluster(f"{lacking}; name a cluster in RINGFENCE_TEST_KUBECONFIG instead")
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise NoCluster("another test session holds the cluster of this machine") from error
        yield from _own()


def _own() -> Iterator[Cluster]:
    binaries = cache() / "bin"
    with (cache() / "build.log").open("wb") as log:
        built = subprocess.run([str(RECIPES / "build.sh"), str(binaries)], stdout=log, stderr=log)
    if built.returncode:
        raise NoCluster(f"the cluster's build failed, see {cache() / 'build.log'}")
    was_running = "not running" not in _cluster(binaries, "status").stdout
    _cluster(binaries, "up")
    try:
        yield _loaded(binaries)
    finally:
        if not was_running:
            _cluster(binaries, "down")


def _loaded(binaries: Path) -> Cluster:
    """The cluster of this machine, with the image of this very server in it."""
    ours = Cluster(STATE / "admin.kubeconfig", IMAGE, inside_reference(), "Never", binaries, STATE, ("10.201.0.1/32",))
    archive = cache() / f"inside-{ours.inside_image.rpartition(':')[2]}.tar"
    with (cache() / "image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            for old in cache().glob("inside-*"):
                old.unlink()
            inside_archive(ours.inside_image, archive)
    ours.load(archive)
    return ours
