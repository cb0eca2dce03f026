// Package node runs one node of the service. New makes a Node from its configuration and its Parts,
// and Run opens it, serves until its context ends, and closes it. Everything that a node takes from
// its machine or from other systems (network, clock, disks, registries, runtimes) can be replaced
// by a field of Parts, so that a test runs the code of a production node in an environment of its
// own.
//
// The package connects other packages and contains what only a running node needs. It decides
// neither what a command does (package builds), nor which node runs an attempt (package scheduler),
// nor how an attempt is executed (package scheduler/owner and the runtimes), nor how commands are
// replicated (package cluster). It does not read configuration files (package config).
//
// The files, from the top down. DESIGN.md describes the life of a node.
//
//   - Life: run.go (New to the end of Run), open.go and cluster.go (opening), lease.go
//     (registration and lease), leader.go (work of the leader), shutdown.go and leave.go
//     (hand-over, draining, leaving the cluster), logs.go and logreserve.go (upkeep of the log
//     store, and the room that it leaves on its disk).
//   - Servers: listen.go (ports), servers.go, grpc.go, interceptors.go, diverged.go (refusal of
//     calls while the state is wrong), http.go, profiles.go, access.go (operators), tls.go,
//     split.go (gRPC and HTTP on one socket).
//   - Operator API: operator.go, members.go, snapshot.go, sealing_keys.go.
//   - API service: service.go, requesthttp.go (addresses that requests name), contexts.go (uploaded
//     build contexts), refcache.go, notifications.go, delayedrefresh.go.
//   - Runtimes: runtimes.go, buildkit.go, kubernetes.go, wsmanager.go, foreign.go, credentials.go.
//   - Adapters between packages that do not know each other: raft.go, clientraft.go (Raft for calls
//     of clients), registry.go, errors.go.
//   - Health and metrics: health.go, readiness.go, metrics.go, statemetrics.go, version.go,
//     tracing.go.
//   - Base: node.go (the type Node), parts.go (the type Parts).
//   - Fault points for tests, with the build tag faults: faults_disk.go and faults_runtime.go, and
//     faults_off.go without the tag.
package node
