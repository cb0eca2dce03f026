#!/usr/bin/env bash
# Runs the fault tests. All other tests are part of 'make test'. Fault tests mostly wait, so two
# packages that test real nodes and one other package run at the same time. A failed test runs again
# after all other tests.
set -uo pipefail
cd "$(dirname "$0")/.."
files=$(grep -rl --include='*_test.go' --exclude-dir=tools '^//go:build faults' . | sort)
other='^\./(builds|cluster|test/(chaos|mutants|sim))/'
out=$(mktemp -d)
export ALONE=${ALONE:-$out/alone} # see tools/test.sh

# run runs the fault tests in the files on standard input. It begins with the packages with the most
# tests, so that no long package runs alone at the end.
run() {
	local files packages
	files=$(cat)
	packages=$(xargs grep -HcE '^func Test_' <<<"$files" | awk -F: '{ sub("/[^/]*$", "", $1); n[$1] += $2 } END { for (p in n) print n[p], p }' | sort -k1,1nr -k2 | cut -d' ' -f2)
	tools/test.sh -race -tags faults -timeout 60m "$@" \
		-run "^($(xargs grep -hoE '^func Test_\w+' <<<"$files" | cut -d' ' -f2 | paste -sd'|'))\$" $packages
}

# Compile once for both runs. The tests find the service there (test/harness).
CGO_ENABLED=1 go build -race -tags faults -o bin/test/race-faults/ ./... || exit 1
grep -vE "$other" <<<"$files" | run -p 2 >"$out/1" 2>&1 &
jobs=($!)
grep -E "$other" <<<"$files" | run -p 1 >"$out/2" 2>&1 &
jobs+=($!)
trap 'kill "${jobs[@]}" 2>/dev/null; rm -rf "$out"' EXIT
status=0
for i in 0 1; do
	wait "${jobs[$i]}" || status=1
	cat "$out/$((i + 1))"
done
exit $status
