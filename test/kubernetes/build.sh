#!/bin/bash
# Builds bin/kube-apiserver and its links. This takes five to ten minutes. For another version V,
# write go.mod again with these commands:
#
#	go mod init github.com/image-builder-ha/image-builder/test/kubernetes
#	GM=$(go mod download -json k8s.io/kubernetes@v$V | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p')
#	for m in $(grep -oE '^\s+k8s.io/[a-z0-9-]+ => ./staging' "$GM" | awk '{print $1}'); do go mod edit -replace "$m=$m@v0${V#1}"; done
#	go mod edit -godebug default=go1.26 -require k8s.io/kubernetes@v$V
#	go mod tidy
set -euo pipefail
cd "$(dirname "$0")"
V=1.36.3
P=k8s.io/component-base/version
CGO_ENABLED=0 go build -p 2 -trimpath -ldflags "-s -w -X $P.gitVersion=v$V -X $P.gitMajor=1 -X $P.gitMinor=36 -X $P.gitTreeState=clean" -o bin/kube-apiserver ./hyper
for c in kube-controller-manager kube-scheduler kubelet kubectl; do ln -sf kube-apiserver bin/$c; done
