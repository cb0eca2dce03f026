package logs

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Copy identifies a place of a copy of a log: a node and its data directory. A node with a wiped
// disk is another place.
type Copy struct {
	Node, StoreID string
}

// Transport sends appends to the nodes that hold copies.
type Transport interface {
	// Append sends a batch and returns the acks in the order of the batch. It returns an error if
	// the node cannot be reached; then any part of the batch may have been appended.
	Append(ctx context.Context, to Copy, batch []Append) ([]Ack, error)
}

// Limits and timing of replication.
const (
	batchBytes    = 8 << 20 // bytes in one batch
	logBudget     = 4 << 20 // bytes of one log in one batch
	batchLogs     = 1024    // logs in one batch
	appendTimeout = 10 * time.Second
	retryMin      = 10 * time.Millisecond
	retryMax      = time.Second
)

// Replicator sends the logs that this node owns to the nodes that hold the other copies. It raises
// the watermark of each log to the least length that all copies have fsynced. One goroutine for
// each node sends the data of all logs in one batch, so that the node needs only one fsync for all
// of them.
type Replicator struct {
	store *Store
	self  Copy
	to    Transport
	log   *slog.Logger

	mu    sync.Mutex
	feeds map[Key]*Feed
	peers map[Copy]*peer

	health healthCache

	ctx  context.Context
	stop context.CancelFunc
	done sync.WaitGroup
}

// NewReplicator returns a replicator of the logs in store. The caller sets Options.Grown of the
// store to the replicator's Grown, and closes the replicator.
func NewReplicator(store *Store, self Copy, to Transport, log *slog.Logger) *Replicator {
	r := &Replicator{store: store, self: self, to: to, log: log, feeds: map[Key]*Feed{}, peers: map[Copy]*peer{}}
	r.ctx, r.stop = context.WithCancel(context.Background())
	return r
}

// Close stops all sending and waits for the goroutines.
func (r *Replicator) Close() {
	r.stop()
	r.done.Wait()
}

// healthCache is the last result of Trouble.
type healthCache struct {
	mu  sync.Mutex
	at  time.Time
	err error
}

// Feed replicates one log for its owner.
type Feed struct {
	r     *Replicator
	key   Key
	epoch uint64
	base  int64 // length of this node's copy at Start: the other copies are cut there

	mu      sync.Mutex
	members map[Copy]*member
	closed  bool
	// sequence is that of the last position that was sent.
	sequence uint64
	changed  chan struct{} // closed and replaced when a member changes
}

// noLength is the length of a copy that has not responded yet.
const noLength = -1

// member is another copy of one log.
type member struct {
	joining      bool  // not in the committed set yet: the watermark does not wait for it
	started      bool  // the copy has acknowledged its cut or reset
	length       int64 // acknowledged; noLength if it has not responded yet
	visible      int64 // the watermark that the copy has
	failingSince time.Time
	refusal      error
	// incarnation is that of the copy, and former the one that it replaces, until started. Both are
	// 0 below feature level 5.
	incarnation, former uint64
	source              position // that the copy has
}

// peer sends the data of all logs to one node, one batch at a time.
type peer struct {
	r  *Replicator
	to Copy

	mu      sync.Mutex
	pending map[Key]bool
	wakeup  chan struct{} // capacity 1: pending has grown
}
