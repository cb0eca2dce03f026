#!/bin/sh
# Degrades the network of a host, or of a container if it runs in the network
# namespace of the container. It needs root, iproute2 and, except for `rate`,
# the kernel module sch_netem.
#
#   tc.sh delay 100ms 20ms     delay each packet by 100 ms, plus or minus 20 ms
#   tc.sh loss 10%             drop one packet in ten
#   tc.sh corrupt 1%           flip one bit in one packet in a hundred
#   tc.sh reorder 25%          send a quarter of the packets 10 ms before the others
#   tc.sh rate 1mbit           limit the bandwidth
#   tc.sh off                  end the fault
#
# Steady state: one leader, all nodes ready (`cluster status`). `verify` runs, see ../README.md.
# Expected: with delay and rate, writes take one round trip longer. If the delay exceeds
#   raft.heartbeat, the leader changes until raft.heartbeat and raft.election are raised. With loss
#   below 10%, calls are slower and none fails.
# Watch: dashboard cluster (Leader, Leader changes); `image-builder cluster members` (last contact).
set -eu
dev=${DEV:-eth0}
usage() {
	sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
	exit 2
}
[ $# -ge 1 ] || usage
how=$1
shift
case $how in
delay | loss | corrupt | rate) [ $# -ge 1 ] || usage ;;
esac
case $how in
delay) tc qdisc replace dev "$dev" root netem delay "$@" ;;
loss | corrupt) tc qdisc replace dev "$dev" root netem "$how" "$@" ;;
reorder) tc qdisc replace dev "$dev" root netem delay 10ms reorder "${1:-25%}" ;;
rate) tc qdisc replace dev "$dev" root tbf rate "$1" burst 32kbit latency 400ms ;;
off) tc qdisc del dev "$dev" root 2>/dev/null || true ;;
*) usage ;;
esac
tc qdisc show dev "$dev"
