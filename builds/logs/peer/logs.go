// Package peerlogs keeps the logs of attempts on several nodes: for the owner of
// an attempt it writes the log and copies it to other nodes (owner.go), for
// readers it opens logs where they are (read.go), to other nodes it serves those
// that are here (serve.go). Bytes on a disk are the business of builds/logs.
package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/owner"

	"google.golang.org/grpc"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Node is this node in its cluster.
type Node interface {
	// StoreID names the node's data directory.
	StoreID() string
	// Conn answers a connection to the peer port of another node. An error says
	// that the node cannot be asked.
	Conn(name, storeID string) (grpc.ClientConnInterface, error)
}

// Options are the parts of a node's logs.
type Options struct {
	// Node is the name of this node.
	Node string
	// State says which logs there are, who writes them and who holds copies.
	State *builds.Store
	// Store configures what is on this node's disk. Grown is set by Open.
	Store logs.Options
	// Stopping ends the streams to readers on other nodes.
	Stopping context.Context
	Log      *slog.Logger
}

// Logs are the logs of one node. Safe for concurrent use.
type Logs struct {
	o      Options
	store  *logs.Store
	copies *logs.Replicator
	relays logs.Relays
	node   Node
}

var _ owner.Logs = (*Logs)(nil)

// Open opens the logs on this node's disk. Join comes before any other call but
// Register, Trouble and Close.
func Open(o Options) (l *Logs, err error) {
	l = &Logs{o: o}
	o.Store.Grown = func(k logs.Key) { l.copies.Grown(k) } // nothing is written before Join
	if l.store, err = logs.Open(o.Store); err != nil {
		return nil, err
	}
	return l, nil
}

// Join tells who this node is.
func (l *Logs) Join(n Node) {
	l.node = n
	l.copies = logs.NewReplicator(l.store, logs.Copy{Node: l.o.Node, StoreID: n.StoreID()}, transport{n}, l.o.Log)
}

// StopCopying ends all sending to other nodes and waits for it.
func (l *Logs) StopCopying() { l.copies.Close() }

// Close waits for readers that share logs of other nodes, whose contexts must be over, fsyncs what
// is pending and closes the disk.
func (l *Logs) Close() error {
	l.relays.Close()
	return l.store.Close()
}

// Copies is the copying to other nodes, for metrics.
func (l *Logs) Copies() *logs.Replicator { return l.copies }

// Trouble answers why the last write of a log failed, until one succeeds.
func (l *Logs) Trouble() error { return l.store.Trouble() }

// idle is for how long a copy that the state does not name is kept: it may
// be on its way to become one, or this node's state may be behind its owner's.
const idle = time.Minute

// Reap removes the logs of builds that the state has forgotten, and copies that
// the state does not name. This node's state must have caught up with the
// leader's just before: what it does not know yet is not what it has forgotten.
func (l *Logs) Reap() {
	for _, key := range l.store.Keys() {
		if l.keeps(key) {
			continue
		}
		if err := l.store.Remove(key); err != nil {
			l.o.Log.Warn("cannot remove a log that nobody needs any more", "build", key.Build, "attempt", key.Attempt, "err", err)
		}
	}
}

func (l *Logs) keeps(key logs.Key) bool {
	a := l.attempt(key)
	if a == nil {
		return l.store.Idle(key) < idle
	}
	switch a.GetLog().GetState() {
	case builds.LogLost, builds.LogExpired:
		return false
	}
	return builds.HasCopy(builds.CopiesOf(a), l.o.Node, l.node.StoreID()) || l.store.Idle(key) < idle
}

// Probe finds out whether logs can be written again after they could not.
func (l *Logs) Probe() {
	if l.store.Trouble() != nil {
		l.store.Probe()
	}
}

// attempt answers the attempt of a log as the local state knows it, or nil.
func (l *Logs) attempt(key logs.Key) *imagebuilderv1.Attempt {
	b := l.o.State.Build(key.Build).GetBuild()
	if key.Attempt == 0 || int(key.Attempt) > len(b.GetAttempts()) {
		return nil
	}
	return b.Attempts[key.Attempt-1]
}

func (l *Logs) isHere(c *imagebuilderv1.LogCopy) bool {
	return c.Node == l.o.Node && c.StoreId == l.node.StoreID()
}

// openLocal opens this node's copy, completed if the state says so.
func (l *Logs) openLocal(key logs.Key, offset int64) (logs.Stream, error) {
	if a := l.attempt(key); a.GetLog().GetState() == builds.LogSealed {
		if err := errors.Join(l.store.Damage(key), l.store.Complete(key, a.Log.Length)); errors.Is(err, logs.ErrDamaged) {
			return nil, l.damagedHere(key, err)
		} else if err != nil {
			return nil, fmt.Errorf("%w (node %s): %w", builds.ErrLogAway, l.o.Node, err)
		}
	}
	length, complete, err := l.store.Length(key)
	if err == nil {
		var r *logs.Reader
		if r, err = l.store.LiveReader(key, offset); err == nil {
			return localLog{r, length, complete}, nil
		}
	}
	switch {
	case errors.Is(err, logs.ErrNotFound):
		return nil, builds.ErrNotFound
	case errors.Is(err, logs.ErrDamaged):
		return nil, l.damagedHere(key, err)
	}
	return nil, err
}
