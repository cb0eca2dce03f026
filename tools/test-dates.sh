#!/usr/bin/env bash
# Runs tests with a moved clock: test-dates.sh "DAYS..." PACKAGE...
#
# The clock of all Go programs that the tests compile is moved: of the tests
# themselves and of the nodes. `go -overlay` replaces a few lines of the standard
# library: time.Now adds TEST_CLOCK_OFFSET, a duration that is read once from the
# environment; file times are moved by the same offset, so that a file that was
# just written is as old as it is; the monotonic clock and the clock of
# testing/synctest stay. One compilation serves all offsets.
#
# Programs that are not compiled here keep the true date: docker-registry,
# buildkitd, git, curl, openssl, busybox. So a certificate or a token of a test is
# not yet valid for them after a move ahead, and may have ended after a move back.
# A test in which such a program checks one is skipped if TEST_CLOCK_OFFSET is set.
set -euo pipefail
cd "$(dirname "$0")/.."
read -ra days <<<"$1"
shift
goroot=$(go env GOROOT)
# Not part of ./..., and always the same, so that the build cache serves the next run.
dir=$PWD/bin/.test-dates
mkdir -p "$dir"

# replace writes a copy of a file of the standard library with one text replaced.
replace() {
	local text
	text=$(<"$goroot/src/$1")
	if [[ $text != *"$2"* ]]; then
		echo "$goroot/src/$1 does not contain what $0 replaces: $2" >&2
		exit 1
	fi
	printf '%s\n' "${text/"$2"/"$3"}" >"$dir/$(basename "$1")"
}
# In a bubble of testing/synctest there is no monotonic time, and Now returns before this line.
replace time/time.go 'sec += unixToInternal - minWall
	if' 'sec += int64(clockOffset/Second) + unixToInternal - minWall
	if'
replace os/stat_linux.go 'time.Unix(fs.sys.Mtim.Unix())' 'time.Unix(fs.sys.Mtim.Unix()).Add(time.ClockOffset())'
replace os/file_posix.go 'syscall.NsecToTimespec(t.UnixNano())' 'syscall.NsecToTimespec(t.Add(-time.ClockOffset()).UnixNano())'
cat >"$dir/clock_offset.go" <<'EOF'
package time

import "syscall"

var clockOffset = readClockOffset()

func readClockOffset() Duration {
	s, found := syscall.Getenv("TEST_CLOCK_OFFSET")
	if !found {
		return 0
	}
	d, err := ParseDuration(s)
	if err != nil {
		panic(err)
	}
	return d
}

// ClockOffset is the duration by which the clock of this process is moved.
func ClockOffset() Duration { return clockOffset }
EOF
cat >"$dir/overlay.json" <<EOF
{"Replace": {
	"$goroot/src/time/time.go": "$dir/time.go",
	"$goroot/src/time/clock_offset.go": "$dir/clock_offset.go",
	"$goroot/src/os/stat_linux.go": "$dir/stat_linux.go",
	"$goroot/src/os/file_posix.go": "$dir/file_posix.go"
}}
EOF
GOFLAGS="$(go env GOFLAGS) -overlay=$dir/overlay.json"
export GOFLAGS

echo "compiling the standard library and the service with a clock that can be moved"
go build -o "$dir/image-builder" ./cmd/image-builder
export IMAGE_BUILDER_BINARY=$dir/image-builder
# A check that the clock moves, before hours of tests that prove nothing.
cat >"$dir/now.go" <<'EOF'
package main

import (
	"fmt"
	"os"
	"time"
)

func main() {
	info, err := os.Stat(os.Args[1])
	if err != nil {
		panic(err)
	}
	fmt.Println(time.Now().Unix()/3600, info.ModTime().Unix()/3600)
}
EOF
failed=()
for d in "${days[@]}"; do
	export TEST_CLOCK_OFFSET=$((d * 24))h
	touch "$dir/now"
	now=$(go run "$dir/now.go" "$dir/now")
	echo "the clock is moved by $d days, to $(date -d "@$((${now% *} * 3600))" +%F)"
	for got in $now; do
		if ((got - d * 24 < $(date +%s) / 3600 - 1 || got - d * 24 > $(date +%s) / 3600)); then
			echo "the clock was not moved: hours since 1970 of now and of a new file are $now" >&2
			exit 1
		fi
	done
	tools/test.sh -vet=off -count 1 -timeout 30m "$@" || failed+=("$d")
done
if ((${#failed[@]})); then
	echo "tests failed with the clock moved by ${failed[*]} days"
	exit 1
fi
