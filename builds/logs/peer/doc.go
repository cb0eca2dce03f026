// Package peer keeps the logs of attempts on several nodes. For the owner of an attempt it writes
// the log and copies it to other nodes. For readers it opens a log on the node that has it. For
// other nodes it serves the logs on the disk of this node.
//
// The package does not know the format of logs on disk, and does not decide when a copy must be
// repaired: package builds/logs and package scheduler/owner do. It does not choose the nodes that
// hold copies. They are part of the replicated state, which the package only reads.
//
// Files, from the top down:
//
//	serve.go      the gRPC service for other nodes
//	damage.go     damaged copies, for their repair
//	reap.go       removal of logs that are not needed any more
//	read.go       readers: opens a log on this node or on another one
//	missing.go    copies that are damaged or cannot be read any more
//	complete.go   makes the copy on this node complete
//	write.go      the log of a live attempt for its owner
//	logs.go       Logs: its options, and how it is opened and closed
//	transport.go  appends to the copies on other nodes
//	remote.go     a log on another node
//	wire.go       conversion of appends and acks to their messages, and back
package peer
