package logs

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/image-builder-ha/image-builder/faults"
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

// noLength is the length of a copy that has not responded yet.
const noLength = -1

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

// newMember returns a copy whose content is not known yet.
func (f *Feed) newMember(joining bool) *member {
	m := &member{joining: joining, length: noLength}
	if f.r.store.opts.Extended() {
		m.incarnation = newIncarnation()
	}
	return m
}

// Start replicates a log to the given copies, other than this node's. base is the length of this
// node's copy.
func (r *Replicator) Start(key Key, epoch uint64, copies []Copy, base int64) *Feed {
	f := &Feed{r: r, key: key, epoch: epoch, base: base, members: map[Copy]*member{}, changed: make(chan struct{})}
	for _, c := range copies {
		if c != r.self {
			f.members[c] = f.newMember(false)
		}
	}
	r.mu.Lock()
	r.feeds[key] = f
	r.mu.Unlock()
	f.wakeAll()
	return f
}

// Close ends the replication of the log. The watermark does not rise any more.
func (f *Feed) Close() {
	f.mu.Lock()
	f.closed = true
	f.notify()
	f.mu.Unlock()
	f.r.mu.Lock()
	defer f.r.mu.Unlock()
	if f.r.feeds[f.key] == f {
		delete(f.r.feeds, f.key)
	}
}

// Join starts to fill a copy that is not in the committed set yet. It first removes what the copy
// has.
func (f *Feed) Join(c Copy) {
	f.mu.Lock()
	if f.members[c] == nil && c != f.r.self {
		f.members[c] = f.newMember(true)
	}
	f.mu.Unlock()
	f.r.wake(c, f.key)
}

// Set replaces the members by the copies that the replicated state names now. The watermark no
// longer waits for copies that left, and waits for those that were added.
func (f *Feed) Set(copies []Copy) {
	f.mu.Lock()
	now := map[Copy]bool{}
	for _, c := range copies {
		now[c] = true
		if c == f.r.self {
			continue
		}
		if m := f.members[c]; m == nil {
			f.members[c] = f.newMember(false)
		} else {
			m.joining = false
		}
	}
	for c, m := range f.members {
		if !now[c] && !m.joining {
			delete(f.members, c)
		}
	}
	f.mu.Unlock()
	f.advance()
	f.wakeAll()
}

// Count makes the watermark wait for a copy that Join has added. Call it before the copy is
// proposed for the committed set: until the outcome is known, all copies of the old and of the new
// set count.
func (f *Feed) Count(c Copy) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.members[c]; m != nil {
		m.joining = false
	}
}

// Drop removes a copy that Join has added, unless the watermark waits for it already.
func (f *Feed) Drop(c Copy) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.members[c]; m != nil && m.joining {
		delete(f.members, c)
	}
}

// Retry resumes sending to a copy that has refused an append, for example because its disk was
// full. The bytes that it has acknowledged still count. A copy that returned ErrReplaced has lost
// them, and is begun anew. A copy that returned ErrFenced is not retried.
func (f *Feed) Retry(c Copy) {
	f.mu.Lock()
	if m := f.members[c]; m != nil && !errors.Is(m.refusal, ErrFenced) {
		if errors.Is(m.refusal, ErrReplaced) {
			f.members[c] = f.newMember(m.joining)
		}
		m.refusal = nil
	}
	f.mu.Unlock()
	f.r.wake(c, f.key)
}

// CopyStatus is the state of one copy.
type CopyStatus struct {
	Copy
	// Joins means that the copy is not in the committed set yet.
	Joins bool
	// Current means that the copy has all bytes that readers can see.
	Current bool
	// Failing is the time at which the node stopped responding; zero if it responds.
	Failing time.Time
	// Refusal is the reason why the copy accepts no more appends; nil if it does.
	Refusal error
}

// Status returns the state of the other copies, and a channel that is closed when it changes.
func (f *Feed) Status() ([]CopyStatus, <-chan struct{}) {
	visible := f.visible()
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []CopyStatus
	for c, m := range f.members {
		out = append(out, CopyStatus{c, m.joining, m.length >= visible, m.failingSince, m.refusal})
	}
	return out, f.changed
}

// Holding returns the other copies that have length bytes, and the number of those that do not have
// them yet. The latter leaves out copies that refuse appends. changed is closed when the result
// changes.
func (f *Feed) Holding(length int64) (held []Copy, missing int, changed <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c, m := range f.members {
		switch {
		case m.length >= length:
			held = append(held, c)
		case m.refusal == nil:
			missing++
		}
	}
	return held, missing, f.changed
}

func (f *Feed) visible() int64 {
	n, _, err := f.r.store.Length(f.key)
	if err != nil {
		return 0
	}
	return n
}

// notify wakes the waiters for a change. The caller holds mu.
func (f *Feed) notify() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// advance raises the watermark to the least length of this copy and of all members that count. It
// records the position if they all have it.
func (f *Feed) advance() {
	length, p, err := f.r.store.end(f.key)
	if err != nil {
		return
	}
	least := length
	f.mu.Lock()
	held := true // copies of older versions hold no position
	for _, m := range f.members {
		held = held && (m.joining || m.incarnation == 0 || m.source == p)
		if !m.joining && !faults.Mutant("show-before-replicated") {
			least = min(least, m.length)
		}
	}
	closed := f.closed
	f.mu.Unlock()
	if !closed && least >= 0 {
		f.r.store.Show(f.key, least)
	}
	if !closed && held {
		f.r.store.hold(f.key, length, p)
	}
}

func (f *Feed) wakeAll() {
	f.mu.Lock()
	var to []Copy
	for c := range f.members {
		to = append(to, c)
	}
	f.mu.Unlock()
	for _, c := range to {
		f.r.wake(c, f.key)
	}
}

// Grown must be called when a log has more durable bytes on this node. It does not block on the
// network.
func (r *Replicator) Grown(key Key) {
	r.mu.Lock()
	f := r.feeds[key]
	r.mu.Unlock()
	if f != nil {
		f.advance() // if there is no other copy, no ack calls it
		f.wakeAll()
	}
}

// next returns the next append for a member. more is false if there is nothing to send now.
func (f *Feed) next(c Copy) (a Append, more bool, err error) {
	visible := f.visible()
	f.mu.Lock()
	m := f.members[c]
	if m == nil || f.closed || m.refusal != nil {
		f.mu.Unlock()
		return Append{}, false, nil
	}
	a = Append{Key: f.key, Epoch: f.epoch, Offset: m.length, Visible: visible}
	a.Incarnation = m.incarnation
	if !m.started {
		a.Offset, a.Cut, a.Former = f.base, true, m.former
		if m.joining {
			a.Offset, a.Cut, a.Reset = 0, false, true
		}
	}
	sentVisible, source := m.visible, m.source
	f.mu.Unlock()
	if a.Incarnation != 0 && a.Former == noCopy && a.Cut && f.base > 0 {
		return a, true, nil // the copy most likely refuses it, and names its incarnation
	}
	recs, err := f.r.store.Records(f.key, a.Offset, logBudget)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return a, false, err
	}
	var sent int64
	a.Records, sent = encodeRecords(recs)
	more = a.Cut || a.Reset || len(recs) > 0 || visible > sentVisible
	if length, p, err := f.r.store.end(f.key); err == nil && a.Incarnation != 0 && length == a.Offset+sent {
		f.mu.Lock()
		f.sequence++
		a.Source, a.Truncated, a.Sequence = p.raw, p.truncated, f.sequence
		f.mu.Unlock()
		more = more || p != source
	}
	return a, more, nil
}

// acked processes a copy's ack of an append. It reports whether there is more to send.
func (f *Feed) acked(c Copy, a Append, ack Ack) (more bool) {
	f.mu.Lock()
	m := f.members[c]
	if m == nil || m.incarnation != a.Incarnation { // the copy is begun anew meanwhile
		f.mu.Unlock()
		return m != nil
	}
	if errors.Is(ack.Refusal, ErrReplaced) && !m.started && ack.Incarnation != a.Former {
		m.former = ack.Incarnation // the next append names it
		f.mu.Unlock()
		return true
	}
	if ack.Refusal != nil {
		m.refusal = ack.Refusal
	} else {
		m.started, m.length, m.visible, m.failingSince = true, ack.Length, a.Visible, time.Time{}
		if a.Sequence > 0 {
			m.source = position{a.Source, a.Truncated}
		}
	}
	f.notify()
	f.mu.Unlock()
	f.advance()
	durable, _ := f.r.store.Durable(f.key)
	return ack.Refusal == nil && (ack.Length < durable || f.visible() > a.Visible)
}

func (f *Feed) failed(c Copy) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.members[c]; m != nil && m.failingSince.IsZero() {
		m.failingSince = time.Now()
		f.notify()
	}
}
