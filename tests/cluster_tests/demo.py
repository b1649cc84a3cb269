"""`make demo-kubernetes`: the demo on a cluster of this machine, built and started where there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.cluster_tests.node import NoCluster, cluster


def main() -> int:
    """The demo's exit code; 2 with one line where no cluster can be had."""
    sys.stderr.write("Starting the cluster (its first build takes some minutes)\n")
    try:
        with cluster() as found:
            setting = {
                "image": found.image,
                "inside_image": found.inside_image,
                "image_pull_policy": found.pull_policy,
                "kubeconfig": str(found.kubeconfig),
                "has_storage_limits": not found.is_ours,
                "cpu_request_milli": 10,
                "memory_request_mib": 32,
            }
            environment = {**os.environ, "RINGFENCE_KUBERNETES": json.dumps(setting)}
            command = [sys.executable, "-m", "ringfence", "demo", "--sandbox", "kubernetes", *sys.argv[1:]]
            return subprocess.run(command, env=environment, check=False).returncode
    except NoCluster as reason:
        sys.stderr.write(f"no Kubernetes here: {reason}\n")
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
