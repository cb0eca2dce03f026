#!/usr/bin/env bash
# Runs `go test` with the given arguments. A failed test runs once more, alone, because tests of
# real processes measure time and fail on a busy machine. The output has both results. A test that
# fails twice fails. If several runs go on at the same time, ALONE names a lock file: each run waits
# for the others before it runs failed tests again. RETRIES names a file that gets a line for each
# test that ran twice: .ci/run prints them at its end, and zero is the aim.
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
	exit 1 # another run would not help
fi
flags=()
for arg; do
	case $arg in
	./* | github.com/*) ;; # packages
	*) flags+=("$arg") ;;
	esac
done
[ -z "${ALONE:-}" ] || flock --exclusive 9
echo "failed, running once more, alone: $(echo $tests) in $(echo $packages)"
[ -z "${RETRIES:-}" ] || echo "$(echo $tests) in $(echo $packages)" >>"$RETRIES"
go test "${flags[@]}" -p 1 -count 1 ${tests:+-run "^($(echo $tests | tr ' ' '|'))\$"} $packages 9>&-
