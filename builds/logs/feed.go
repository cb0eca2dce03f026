package logs

import "errors"

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

// newMember returns a copy whose content is not known yet.
func (f *Feed) newMember(joining bool) *member {
	m := &member{joining: joining, length: noLength}
	if f.r.store.opts.Extended() {
		m.incarnation = newIncarnation()
	}
	return m
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

// Join starts to fill a copy that is not in the committed set yet. It first removes the content of
// the copy.
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
// them, and is filled again from the beginning. A copy that returned ErrFenced is not retried.
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
