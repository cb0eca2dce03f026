package logs

import "time"

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
