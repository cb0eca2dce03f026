#!/usr/bin/env bash
# Generates the Go code of proto/ into the given directory.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$1
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
go build -modfile=tools.mod -o "$bin/" google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc
PATH=$bin:$PATH protoc -I . -I /usr/include \
	--go_out="$out" --go_opt=paths=source_relative \
	--go-grpc_out="$out" --go-grpc_opt=paths=source_relative \
	$(find proto -name '*.proto' | sort)
