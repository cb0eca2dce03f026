#!/bin/sh
# Puts toxiproxy (https://github.com/Shopify/toxiproxy) between the nodes and a
# registry, and degrades the connections. First start toxiproxy-server, and
# configure the proxy as the mirror or address of the registry.
#
#   toxiproxy.sh create registry.example.com:443   create the proxy on 127.0.0.1:26500
#   toxiproxy.sh latency 2000    delay responses by two seconds
#   toxiproxy.sh timeout         connections hang and never end
#   toxiproxy.sh reset           reset connections after 500 ms
#   toxiproxy.sh slow 10         limit the bandwidth to 10 KB a second
#   toxiproxy.sh cut 100000      end connections after 100,000 bytes
#   toxiproxy.sh toggle          stop listening, or listen again
#   toxiproxy.sh off             end all faults except toggle
#
# Steady state: one leader, all nodes ready (`cluster status`). `verify` runs, see ../README.md.
# Expected: look-ups of cached references return their digests as before, with their age. Builds
#   wait and are retried, and end once the registry is reachable. Other registries are not affected.
#   ImageBuilderQueueGrows and ImageBuilderBuildsFail may fire.
# Watch: dashboard registry; `image-builder cache list`; `image-builder builds`.
set -eu
name=image-builder-registry
cli() { toxiproxy-cli "$@"; }
usage() {
	sed -n '2,14s/^# \{0,1\}//p' "$0" >&2
	exit 2
}
[ $# -ge 1 ] || usage
case $1 in
create | latency | slow | cut) [ $# -eq 2 ] || usage ;;
*) [ $# -eq 1 ] || usage ;;
esac
poison() { # type, attributes
	type=$1
	shift
	cli toxic add --toxicName "$type" --type "$type" "$@" "$name"
}
case $1 in
create) cli create --listen 127.0.0.1:26500 --upstream "$2" "$name" ;;
latency) poison latency --attribute "latency=$2" ;;
timeout) poison timeout --attribute timeout=0 ;;
reset) poison reset_peer --attribute timeout=500 ;;
slow) poison bandwidth --attribute "rate=$2" ;;
cut) poison limit_data --attribute "bytes=$2" ;;
toggle) cli toggle "$name" ;;
off)
	for t in latency timeout reset_peer bandwidth limit_data; do
		cli toxic remove --toxicName "$t" "$name" 2>/dev/null || true
	done
	;;
*) usage ;;
esac
