package logs

import "github.com/image-builder-ha/image-builder/faults"

// Held returns the raw offset at which every next owner would continue, if this node was lost now.
// It does not exceed RawOffset, and is 0 while it is not known. A runtime may drop the workload's
// output before it. After output was dropped because of the limit of the log, Held follows
// RawOffset in steps of positionStep. Below feature level 5 no copy learns of such output, and Held
// is RawOffset.
func (w *Writer) Held() int64 {
	extended := w.l.store.opts.Extended()
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case faults.Mutant("held-by-the-owner-alone"), w.full && !extended:
		return w.input
	case w.fenced:
		return 0
	case !w.replicated:
		return w.l.raw
	}
	w.trail.reach(w.l.visible)
	return min(w.trail.held.raw, w.input)
}
