#!/usr/bin/env bash
# Runs the tests of faults; all others are part of 'make test'. They mostly wait,
# those of ./test for half an hour if one by one: so two halves of these and all
# other packages run at a time. What fails runs again once all others are done.
set -uo pipefail
cd "$(dirname "$0")/.."
files=$(grep -rl --include='*_test.go' --exclude-dir=tools '^//go:build faults' . | sort)
whole=$(grep '^\./test/[^/]*$' <<<"$files")
others=$(grep -v '^\./test/[^/]*$' <<<"$files")
out=$(mktemp -d)
export ALONE=$out/alone # see tools/test.sh

# run runs the tests named on standard input.
run() { tools/test.sh -race -tags faults -timeout 60m -run "^($(paste -sd'|'))\$" "$@"; }
names() { grep -hoE '^func Test_\w+' "$@" | cut -d' ' -f2; }

CGO_ENABLED=1 go build -race -tags faults ./... || exit 1 # once, not by both halves
names $whole | awk 'NR % 2' | run ./test >"$out/1" 2>&1 &
jobs=($!)
names $whole | awk 'NR % 2 == 0' | run ./test >"$out/2" 2>&1 &
jobs+=($!)
names $others | run -p 1 $(dirname $others | sort -u) >"$out/3" 2>&1 &
jobs+=($!)
trap 'kill "${jobs[@]}" 2>/dev/null; rm -rf "$out"' EXIT
status=0
for i in 0 1 2; do
	wait "${jobs[$i]}" || status=1
	cat "$out/$((i + 1))"
done
exit $status
