#!/usr/bin/env bash
# Runs every fuzz test of the module. The argument is the time for each test.
set -euo pipefail
cd "$(dirname "$0")/.."
for package in $(go list ./...); do
	dir=${package#github.com/image-builder-ha/image-builder}
	for name in $(grep -hoE '^func (Fuzz[A-Za-z0-9_]*)' ".$dir"/*_test.go 2>/dev/null | awk '{print $2}'); do
		echo "fuzzing $name in .$dir"
		go test -run '^$' -fuzz "^$name\$" -fuzztime "$1" ".$dir"
	done
done
