// Package scheduler brings builds to their end. On the leader, a loop decides
// from the replicated state what starts where (decide.go is pure, leader.go
// commits). On every node, another loop runs the attempts that the state gives
// to the node (owner.go, attempt.go): intent is committed before any effect,
// and every command of an owner carries the epoch that fences it.
//
// How an attempt is executed is a Runtime's business, one package each below
// this one. What never lives here: a registry client, BuildKit, Kubernetes.
package scheduler
