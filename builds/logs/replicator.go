package logs

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/image-builder-ha/image-builder/faults"
)

// Copy is a place of a log: a node with a certain data directory. A node with
// a wiped disk is another place.
type Copy struct {
	Node, StoreID string
}

// Transport brings appends to the nodes that hold copies.
type Transport interface {
	// Append answers acks in the order of the batch. An error says that the node
	// cannot be asked.
	Append(ctx context.Context, to Copy, batch []Append) ([]Ack, error)
}

// Sizes and times of replication.
const (
	batchBytes = 8 << 20 // of one batch to one node
	logBudget  = 4 << 20 // of one log in one batch
	batchLogs  = 1024    // logs in one batch
	appendTime = 10 * time.Second
	retryMin   = 10 * time.Millisecond
	retryMax   = time.Second
)

// noLength is the length of a copy that has not answered yet.
const noLength = -1

// Replicator sends the logs that this node owns to the nodes that hold the
// other copies, and moves the watermark: the least length that all of them
// hold. One goroutine a node sends what all logs have for it in one batch, so
// that one fsync there serves them all.
type Replicator struct {
	store *Store
	self  Copy
	to    Transport
	log   *slog.Logger

	mu    sync.Mutex
	feeds map[Key]*Feed
	peers map[Copy]*peer

	trouble trouble

	ctx  context.Context
	stop context.CancelFunc
	done sync.WaitGroup
}

// NewReplicator answers a replicator of a store. Store.Options.Grown must be
// its Grown.
func NewReplicator(store *Store, self Copy, to Transport, log *slog.Logger) *Replicator {
	r := &Replicator{store: store, self: self, to: to, log: log, feeds: map[Key]*Feed{}, peers: map[Copy]*peer{}}
	r.ctx, r.stop = context.WithCancel(context.Background())
	return r
}

// Close ends all sending and waits for it.
func (r *Replicator) Close() {
	r.stop()
	r.done.Wait()
}

// Feed is the replication of one log by its owner.
type Feed struct {
	r     *Replicator
	key   Key
	epoch uint64
	base  int64 // what this node held when it became the owner: the others are cut there

	mu      sync.Mutex
	members map[Copy]*member
	closed  bool
	changed chan struct{} // closed and replaced when an ack or a failure arrives
}

// member is another copy of one log.
type member struct {
	joins   bool  // it is no member of the committed set yet
	began   bool  // it was cut or reset
	length  int64 // acked; noLength: not known
	shown   int64 // the watermark that it was told
	failing time.Time
	refusal error
}

// Start replicates a log to the given copies, this node left out. base is what
// this node holds.
func (r *Replicator) Start(key Key, epoch uint64, copies []Copy, base int64) *Feed {
	f := &Feed{r: r, key: key, epoch: epoch, base: base, members: map[Copy]*member{}, changed: make(chan struct{})}
	for _, c := range copies {
		if c != r.self {
			f.members[c] = &member{length: noLength}
		}
	}
	r.mu.Lock()
	r.feeds[key] = f
	r.mu.Unlock()
	f.wakeAll()
	return f
}

// Close ends the replication of the log.
func (f *Feed) Close() {
	f.mu.Lock()
	f.closed = true
	f.tell()
	f.mu.Unlock()
	f.r.mu.Lock()
	defer f.r.mu.Unlock()
	if f.r.feeds[f.key] == f {
		delete(f.r.feeds, f.key)
	}
}

// Join brings a node's copy up to date that is no member yet.
func (f *Feed) Join(c Copy) {
	f.mu.Lock()
	if f.members[c] == nil && c != f.r.self {
		f.members[c] = &member{joins: true, length: noLength}
	}
	f.mu.Unlock()
	f.r.wake(c, f.key)
}

// Set tells which copies the replicated state names now: nodes that left no
// longer hold the watermark back, and those that joined do.
func (f *Feed) Set(copies []Copy) {
	f.mu.Lock()
	now := map[Copy]bool{}
	for _, c := range copies {
		now[c] = true
		if c == f.r.self {
			continue
		}
		if m := f.members[c]; m == nil {
			f.members[c] = &member{length: noLength}
		} else {
			m.joins = false
		}
	}
	for c, m := range f.members {
		if !now[c] && !m.joins {
			delete(f.members, c)
		}
	}
	f.mu.Unlock()
	f.advance()
	f.wakeAll()
}

// Count makes the watermark wait for a copy that is about to become a member:
// while that is proposed, the log needs all of the old and of the new set.
func (f *Feed) Count(c Copy) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.members[c]; m != nil {
		m.joins = false
	}
}

// Drop ends the attempt to bring a copy up to date.
func (f *Feed) Drop(c Copy) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.members[c]; m != nil && m.joins {
		delete(f.members, c)
	}
}

// Retry asks a copy again that refused, such as one whose disk was full. What it
// acknowledged before still counts.
func (f *Feed) Retry(c Copy) {
	f.mu.Lock()
	if m := f.members[c]; m != nil && !errors.Is(m.refusal, ErrFenced) {
		m.refusal = nil
	}
	f.mu.Unlock()
	f.r.wake(c, f.key)
}

// CopyStatus is how one copy is.
type CopyStatus struct {
	Copy
	// Joins: it is no member of the committed set yet.
	Joins bool
	// Current: it holds everything that readers were shown.
	Current bool
	// Failing is since when it does not answer; zero if it does.
	Failing time.Time
	// Refusal is why it takes no more.
	Refusal error
}

// Status answers how the other copies are, and a channel that is closed when
// that changes.
func (f *Feed) Status() ([]CopyStatus, <-chan struct{}) {
	visible := f.visible()
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []CopyStatus
	for c, m := range f.members {
		out = append(out, CopyStatus{c, m.joins, m.length >= visible, m.failing, m.refusal})
	}
	return out, f.changed
}

// Holding answers the other copies that hold so many bytes, how many do not
// (yet), those that refuse left out, and a channel that is closed when that
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

// tell wakes who waits for a change. The caller holds mu.
func (f *Feed) tell() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// advance moves the watermark to the least length of all members.
func (f *Feed) advance() {
	least, err := f.r.store.Durable(f.key)
	if err != nil {
		return
	}
	f.mu.Lock()
	for _, m := range f.members {
		if !m.joins && !faults.Mutant("show-before-replicated") {
			least = min(least, m.length)
		}
	}
	closed := f.closed
	f.mu.Unlock()
	if !closed && least >= 0 {
		f.r.store.Show(f.key, least)
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

// Grown is told of each log that has more durable bytes.
func (r *Replicator) Grown(key Key) {
	r.mu.Lock()
	f := r.feeds[key]
	r.mu.Unlock()
	if f != nil {
		f.advance() // a log whose other copies all left
		f.wakeAll()
	}
}

// next answers what one member should get now.
func (f *Feed) next(c Copy) (a Append, more bool, err error) {
	visible := f.visible()
	f.mu.Lock()
	m := f.members[c]
	if m == nil || f.closed || m.refusal != nil {
		f.mu.Unlock()
		return Append{}, false, nil
	}
	a = Append{Key: f.key, Epoch: f.epoch, Offset: m.length, Visible: visible}
	if !m.began {
		a.Offset, a.Cut = f.base, true
		if m.joins {
			a.Offset, a.Cut, a.Reset = 0, false, true
		}
	}
	shown := m.shown
	f.mu.Unlock()
	recs, err := f.r.store.Records(f.key, a.Offset, logBudget)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return a, false, err
	}
	a.Records, _ = encodeRecords(recs)
	return a, a.Cut || a.Reset || len(recs) > 0 || visible > shown, nil
}

// acked takes up a copy's answer. It reports whether there is more to send.
func (f *Feed) acked(c Copy, a Append, ack Ack) (more bool) {
	f.mu.Lock()
	m := f.members[c]
	if m == nil {
		f.mu.Unlock()
		return false
	}
	if ack.Refusal != nil {
		m.refusal = ack.Refusal
	} else {
		m.began, m.length, m.shown, m.failing = true, ack.Length, a.Visible, time.Time{}
	}
	f.tell()
	f.mu.Unlock()
	f.advance()
	durable, _ := f.r.store.Durable(f.key)
	return ack.Refusal == nil && (ack.Length < durable || f.visible() > a.Visible)
}

func (f *Feed) failed(c Copy) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.members[c]; m != nil && m.failing.IsZero() {
		m.failing = time.Now()
		f.tell()
	}
}
