#!/bin/sh
# Render the chart for people who use kubectl alone. Needs helm 3.14 or newer.
#   ./render.sh [OUT]        OUT is this folder where it is not given
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here}
chart=$here/../helm/ringfence

render() {
    file=$1
    shift
    echo "# Rendered from deploy/helm/ringfence by deploy/manifests/render.sh; do not edit." >"$out/$file"
    helm template ringfence "$chart" --namespace ringfence-system --values "$here/values/example.yaml" "$@" >>"$out/$file"
}

render 1-rights.yaml --show-only templates/rights.yaml --show-only templates/policy-orchestrator.yaml \
    --show-only templates/policy-agents.yaml --show-only templates/policy-run-pods.yaml
render 2-migrate.yaml --show-only templates/migration.yaml
render 3-control-plane.yaml --show-only templates/config.yaml --show-only templates/state.yaml \
    --show-only templates/console.yaml --show-only templates/worker.yaml --show-only templates/egress.yaml \
    --show-only templates/budgets.yaml \
    --show-only templates/network.yaml
render 4-attacks.yaml --show-only templates/tests/attacks.yaml
