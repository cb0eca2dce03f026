#!/bin/sh
# Degrades the network of one host, or of one container (run it in its network
# namespace), by the kernel's queueing: needs root, iproute2 and, for all but
# `rate`, the kernel module sch_netem.
#
#   tc.sh delay 100ms 20ms     each packet later by 100 ms, give or take 20
#   tc.sh loss 10%             one packet of ten is lost
#   tc.sh corrupt 1%           one of a hundred has a wrong bit
#   tc.sh reorder 25%          a quarter overtakes the others by 10 ms
#   tc.sh rate 1mbit           no more than that
#   tc.sh off                  as before
#
# Steady state: one leader, all nodes ready (`cluster status`); `verify` builds and judges, see ../README.md.
# Expected: delay and rate: writes are slower by the time of one round; beyond raft.heartbeat the leader changes
#   until raft.heartbeat and raft.election are raised. Loss below 10%: calls are slower, none fails.
# Watch: dashboard cluster (leader, changes of the leader); image-builder cluster members (last contact).
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
