// Package serverid composes and splits the ids of Raft's servers. A server is a disk: its id is the
// name of the node and the random id of its data directory (NAME/STORE).
package serverid

import (
	"strings"

	"github.com/hashicorp/raft"
)

// New returns the id of the server of a node with a store.
func New(name, store string) raft.ServerID { return raft.ServerID(name + "/" + store) }

// Name returns the name of the node.
func Name(id raft.ServerID) string {
	name, _, _ := strings.Cut(string(id), "/")
	return name
}

// Store returns the id of the store, or "" if the id has none.
func Store(id raft.ServerID) string {
	_, store, _ := strings.Cut(string(id), "/")
	return store
}
