#!/usr/bin/env bash
# Runs the tests with a real Kubernetes. Each cluster has its own namespaces, and tests wait for pods
# most of the time, so two clusters run at the same time. A kubelet changes settings of the kernel,
# which are restored after its tests, so only one of the two has a kubelet. A failed test runs again
# after all other tests.
set -uo pipefail
cd "$(dirname "$0")/.."
out=$(mktemp -d)
export ALONE=${ALONE:-$out/alone} # see tools/test.sh
trap 'kill "${jobs[@]}" 2>/dev/null; rm -rf "$out"' EXIT

with_kubelet() {
	tools/test.sh -tags kubernetes -timeout 20m -p 1 ./test/kubelet ./test/chart
}

with_api_server() {
	tools/test.sh -tags kubernetes -timeout 20m ./test/kwok || return 1
	tools/test.sh -race -tags kubernetes -timeout 15m -run "^($(grep -rhoE '^func Test_\w+' $(grep -rl '^//go:build kubernetes' scheduler/kubernetes --include='*_test.go') | cut -d' ' -f2 | paste -sd'|'))\$" ./scheduler/kubernetes/... || return 1
	cd tools/deploytest && ../test.sh -count 1 -tags kubernetes -timeout 15m -run AcceptedByAPIServer .
}

go vet -tags kubernetes ./test/kubelet ./test/kwok ./test/chart ./scheduler/kubernetes/... || exit 1
jobs=()
with_kubelet >"$out/1" 2>&1 &
jobs+=($!)
with_api_server >"$out/2" 2>&1 &
jobs+=($!)
status=0
for i in 0 1; do
	wait "${jobs[$i]}" || status=1
	cat "$out/$((i + 1))"
done
exit $status
