#!/usr/bin/env bash
# Installs the missing Debian packages that the service and the tests need. With the argument
# `kubernetes` or `web` it also installs the packages for `make test-kubernetes` or `make test-web`.
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
	echo "missing packages (names of Debian): ${missing[*]}. Install them, or run this script as root on Debian." >&2
	exit 1
fi
echo "installing ${missing[*]}"
apt-get update -q >/dev/null
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
