#!/usr/bin/env bash
# Runs the tests of faults; all others are part of 'make test'. They mostly wait:
# so two packages that test real nodes and one other package run at a time. What
# fails runs again once all others are done.
set -uo pipefail
cd "$(dirname "$0")/.."
files=$(grep -rl --include='*_test.go' --exclude-dir=tools '^//go:build faults' . | sort)
other='^\./(builds|cluster|test/(chaos|mutants|sim))/'
out=$(mktemp -d)
export ALONE=$out/alone # see tools/test.sh

# run runs the tests of faults in the files on standard input. Packages with more
# tests begin first, so that no long one is left for the end.
run() {
	local files packages
	files=$(cat)
	packages=$(xargs grep -HcE '^func Test_' <<<"$files" | awk -F: '{ sub("/[^/]*$", "", $1); n[$1] += $2 } END { for (p in n) print n[p], p }' | sort -k1,1nr -k2 | cut -d' ' -f2)
	tools/test.sh -race -tags faults -timeout 60m "$@" \
		-run "^($(xargs grep -hoE '^func Test_\w+' <<<"$files" | cut -d' ' -f2 | paste -sd'|'))\$" $packages
}

# Compiled once, not by both runs; the tests find the service there (test/harness).
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
