"""`ringfence run --sandbox kubernetes`, as a person types it: the same job as locally, in a namespace of its own."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cluster_tests.node import Cluster
from tests.integration.cli.test_run import Person

pytestmark = pytest.mark.cluster


def answer(command: str) -> dict[str, object]:
    call = {"id": "c", "name": "shell", "arguments": {"command": command}}
    return {"kind": "answer", "content": "On.", "tool_calls": [call], "usage": {"input": 1, "output": 1}}


SLEEPER = "\n".join(
    json.dumps(line)
    for line in ({"kind": "transcript", "version": 1, "model": "sleeper"}, answer("sleep 100"), answer("true"))
)


class ClusterPerson(Person):
    """Someone whose runs execute on the cluster, under an installation's name of their own."""

    def __init__(self, folder: Path, cluster: Cluster, instance: str) -> None:
        super().__init__(folder)
        self._cluster = cluster
        self.instance = instance

    @property
    def environment(self) -> dict[str, str]:
        setting: dict[str, object] = {
            "image": self._cluster.image,
            "inside_image": self._cluster.inside_image,
            "image_pull_policy": self._cluster.pull_policy,
            "kubeconfig": str(self._cluster.kubeconfig),
            "instance": self.instance,
            "has_storage_limits": not self._cluster.is_ours,
            "cpu_request_milli": 10,
            "memory_request_mib": 32,
        }
        return super().environment | {"RINGFENCE_KUBERNETES": json.dumps(setting)}

    def kubectl(self, *words: str) -> str:
        command = [self._cluster.program("kubectl"), "--kubeconfig", str(self._cluster.kubeconfig), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    def namespaces(self) -> list[dict[str, Mapping[str, str]]]:
        selector = f"app.kubernetes.io/managed-by=ringfence,ringfence/instance={self.instance}"
        listed = json.loads(self.kubectl("get", "ns", "-l", selector, "-o", "json"))
        return [item["metadata"] for item in listed["items"]]

    def entries(self) -> list[dict[str, object]]:
        done = self.types("audit", "query", "--json")
        return [record for record in self.records(done) if record["type"] == "entry"]


@pytest.fixture
def person(tmp_path: Path, cluster: Cluster) -> ClusterPerson:
    return ClusterPerson(tmp_path, cluster, f"job-{tmp_path.name[-20:].strip('-_').replace('_', '-').lower()}")


def until(condition: Callable[[], bool], *, within_s: float = 60) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.1)


def shape(entries: list[dict[str, object]]) -> list[str]:
    """What the agent did and was told. Sorted, since the order of reads that overlap is free; the life of a sandbox
    and counts that come with time are a backend's own."""
    return sorted(kind for entry in entries if (kind := str(entry["kind"])).startswith(("call.", "model.")))


def test_a_namespace_deleted_by_hand_ends_its_run_with_an_entry(person: ClusterPerson) -> None:
    person.transcript.write_text(SLEEPER + "\n")
    command = person.command(*person.run_words(), "--sandbox", "kubernetes")
    running = subprocess.Popen(command, env=person.environment, stdout=subprocess.PIPE, text=True)
    try:
        until(lambda: any(e["kind"] == "call.intent" for e in person.entries()) if person.home.exists() else False)
        (namespace,) = person.namespaces()
        labels = namespace["labels"]
        assert labels["ringfence/run"] and labels["ringfence/task"] and labels["ringfence/profile"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
        person.kubectl("delete", "namespace", str(namespace["name"]), "--wait=false")
        output, _ = running.communicate(timeout=90)
    finally:
        running.kill()
        running.wait()
    result = json.loads(output.splitlines()[-1])
    assert (running.returncode, result["status"]) == (1, "failed")
    assert "was deleted" in result["summary"]
    removed = [entry for entry in person.entries() if "'action': 'removed'" in str(entry.get("data"))]
    assert len(removed) == 1
    assert person.types("audit", "verify").returncode == 0


def test_the_main_job_gives_the_same_patch_and_entries_as_locally(person: ClusterPerson, tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    locally = Person(tmp_path / "local")
    with ThreadPoolExecutor(1) as beside:
        running = beside.submit(lambda: locally.types(*locally.run_words()))
        done = person.types(*person.run_words(), "--sandbox", "kubernetes")
        here = locally.records(running.result())[-1]
    assert done.returncode == 0, done.stderr
    there = person.records(done)[-1]
    assert (there["status"], there["tool_calls"]) == (here["status"], here["tool_calls"]) == ("finished", 10)
    assert Path(str(there["patch"])).read_bytes() == Path(str(here["patch"])).read_bytes()
    own = [r for r in locally.records(locally.types("audit", "query", "--json")) if r["type"] == "entry"]
    assert shape(person.entries()) == shape(own)
    assert person.namespaces() == []
