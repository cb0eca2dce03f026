#!/usr/bin/env bash
# Runs `go test` with the given arguments. What fails is run once more, alone:
# tests of real processes measure time, and two cores are soon busy. Both
# failures are in the output; a test that fails twice fails. Where several runs
# go on at a time, ALONE names a file by which each waits for the others before it
# runs something once more. RETRIES names a file that gets a line for each test that
# had to run once more: .ci/run prints them at its end, and zero is the aim.
set -uo pipefail
exec 9>"${ALONE:-/dev/null}"
[ -z "${ALONE:-}" ] || flock --shared 9
case " $* " in *" -race "*) export CGO_ENABLED=1 ;; esac
out=$(mktemp)
trap 'rm -f "$out"' EXIT
go test "$@" 2>&1 9>&- | tee "$out" 9>&- && exit 0
packages=$(awk '$1 == "FAIL" && $2 ~ "/" { print $2 }' "$out" | sort -u)
tests=$(sed -n 's/^--- FAIL: \([A-Za-z0-9_]*\).*/\1/p' "$out" | sort -u)
if [ -z "$packages" ] || grep -qE '^(panic|fatal error|WARNING: DATA RACE)|\[(build|setup) failed\]' "$out"; then
	exit 1 # nothing that another run could change
fi
flags=()
for arg; do
	case $arg in
	./* | github.com/*) ;; # packages
	*) flags+=("$arg") ;;
	esac
done
[ -z "${ALONE:-}" ] || flock --exclusive 9
echo "failed, once more alone: $(echo $tests) of $(echo $packages)"
[ -z "${RETRIES:-}" ] || for t in ${tests:-$packages}; do echo "$t" >>"$RETRIES"; done
go test "${flags[@]}" -p 1 -count 1 ${tests:+-run "^($(echo $tests | tr ' ' '|'))\$"} $packages 9>&-
