#!/usr/bin/env bash
# Installs the Debian packages that running and testing need, if they are
# missing; with the argument `kubernetes` or `web` those for `make test-kubernetes` or
# `make test-web` too.
set -euo pipefail
declare -A want=(
	[docker-registry]=docker-registry [runc]=runc [git]=git [busybox]=busybox-static
	[protoc]=protobuf-compiler [ip]=iproute2 [iptables]=iptables [htpasswd]=apache2-utils
	[node]=nodejs [npm]=npm [curl]=curl
)
[ "${1:-}" = kubernetes ] && want+=([etcd]=etcd-server [containerd]=containerd [/usr/lib/cni/bridge]=containernetworking-plugins [rootlesskit]=rootlesskit [newuidmap]=uidmap)
[ "${1:-}" = web ] && want+=([chromium]=chromium)
missing=()
for command in "${!want[@]}"; do
	command -v "$command" >/dev/null || missing+=("${want[$command]}")
done
[ -e /usr/include/google/protobuf/timestamp.proto ] || missing+=(libprotobuf-dev)
[ ${#missing[@]} -eq 0 ] && exit 0
if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
	echo "missing: ${missing[*]}. Install them (Debian's names), or run this as root on Debian." >&2
	exit 1
fi
echo "installing ${missing[*]}"
apt-get update -q >/dev/null
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
