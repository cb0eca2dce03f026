package peer

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"google.golang.org/grpc"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Options are the parts of the logs of a node. All fields are required.
type Options struct {
	// Node and StoreID name this node as the state does.
	Node, StoreID string
	// Conn returns a connection to the peer port of another node. It returns an error if the node
	// cannot be called now.
	Conn func(node, storeID string) (grpc.ClientConnInterface, error)
	// State names the logs, their owners and the nodes that hold copies.
	State *builds.Store
	// Store configures the logs on this node's disk. Open sets Grown.
	Store logs.Options
	// Stopping ends the streams to readers on other nodes.
	Stopping context.Context
	Log      *slog.Logger
}

// Logs are the logs of one node. Its methods may be called concurrently.
type Logs struct {
	opts   Options
	store  *logs.Store
	copies *logs.Replicator
	relays logs.Relays

	completions completions
}

// Open opens the logs on this node's disk. The caller calls StopCopying while the connections to
// other nodes still work, and Close at last.
func Open(o Options) (l *Logs, err error) {
	if o.Node == "" || o.StoreID == "" || o.Conn == nil {
		return nil, errors.New("open the logs of a node: its name, its store id or its connections to other nodes are missing: create the cluster node first")
	}
	l = &Logs{opts: o, completions: completions{running: map[logs.Key]*completion{}, slots: make(chan struct{}, maxCompletions)}}
	o.Store.Grown = func(k logs.Key) { l.copies.Grown(k) } // not called before the first write
	o.Store.Extended = func() bool { return o.State.View().Level() >= builds.LogRecordsLevel }
	if l.store, err = logs.Open(o.Store); err != nil {
		return nil, err
	}
	self := logs.Copy{Node: o.Node, StoreID: o.StoreID}
	l.copies = logs.NewReplicator(l.store, self, transport{o.Conn}, o.Log)
	return l, nil
}

// StopCopying ends all sending to other nodes and waits for it.
func (l *Logs) StopCopying() { l.copies.Close() }

// Close waits for the readers that share a stream of another node, whose contexts must have ended.
// Then it fsyncs pending output and closes the store.
func (l *Logs) Close() error {
	l.relays.Close()
	l.completions.tasks.Wait()
	return l.store.Close()
}

// Copies returns the replicator, for metrics.
func (l *Logs) Copies() *logs.Replicator { return l.copies }

// Trouble returns the error of the last write of a log, until a write succeeds.
func (l *Logs) Trouble() error { return l.store.Trouble() }

// Probe tests whether logs can be written again, if the last write failed.
func (l *Logs) Probe() {
	if l.store.Trouble() != nil {
		l.store.Probe()
	}
}

// attempt returns the attempt of a log in the local state, or nil.
func (l *Logs) attempt(key logs.Key) *imagebuilderv1.Attempt {
	b := l.opts.State.Build(key.Build).GetBuild()
	if key.Attempt == 0 || int(key.Attempt) > len(b.GetAttempts()) {
		return nil
	}
	return b.Attempts[key.Attempt-1]
}

// isHere reports whether a copy is on the disk of this node.
func (l *Logs) isHere(c *imagebuilderv1.LogCopy) bool {
	return c.Node == l.opts.Node && c.StoreId == l.opts.StoreID
}

// hasCopy reports whether this node is one of those that hold the log of an attempt.
func (l *Logs) hasCopy(a *imagebuilderv1.Attempt) bool {
	return builds.HasCopy(builds.CopiesOf(a), l.opts.Node, l.opts.StoreID)
}

// maxCompletions limits how many copies are completed for readers at a time. No more goroutines hang
// if the disk hangs.
const maxCompletions = 64

// completions are the copies on this node that are being completed for readers.
type completions struct {
	mu      sync.Mutex
	running map[logs.Key]*completion
	slots   chan struct{} // one element for each call of running
	tasks   sync.WaitGroup
}

type completion struct {
	done chan struct{}
	err  error
}
