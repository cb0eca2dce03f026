package logs

import (
	"context"
	"errors"
	"time"

	"github.com/image-builder-ha/image-builder/faults"
)

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
	if m == nil || m.incarnation != a.Incarnation { // the copy was emptied and started again meanwhile
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

func (f *Feed) visible() int64 {
	n, _, err := f.r.store.Length(context.Background(), f.key)
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
