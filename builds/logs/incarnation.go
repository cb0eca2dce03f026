package logs

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"

	"github.com/image-builder-ha/image-builder/faults"
)

// Each copy of a log on another node has an incarnation: a random number that names the content of
// the copy from the moment at which an owner began to fill it. The first append to a copy, with Cut
// or Reset, gives the copy a new incarnation, and names the former one. The copy refuses the append
// if it has another incarnation than the former one. Each later append names the incarnation that
// it continues. So the incarnations of a copy form a chain, and a request that was delayed beyond
// its timeout does nothing once the chain has grown, whoever sent it and in whatever order requests
// arrive.

// ErrReplaced means that a copy has another incarnation than an append expects.
var ErrReplaced = errors.New("the copy of the log was begun anew")

const (
	// noCopy is the incarnation if there is no copy.
	noCopy = 0
	// oldCopy is the incarnation of a copy that has none: its node owned the log, or the owner did
	// not know incarnations.
	oldCopy = 1
)

// newIncarnation returns an incarnation that no copy has had before.
func newIncarnation() uint64 { return max(rand.Uint64(), oldCopy+1) }

func incarnationRecord(n uint64) record {
	return record{kind: kindIncarnation, payload: binary.BigEndian.AppendUint64(nil, n)}
}

// current returns the incarnation of this copy. The caller holds mu.
func (l *attemptLog) current() uint64 {
	switch {
	case l.incarnation != 0:
		return l.incarnation
	case l.removed || len(l.segs) == 0 && l.writer == nil && l.err == nil:
		return noCopy
	}
	return oldCopy
}

// admit decides whether a copy accepts an append. begins means that the append begins a new
// incarnation; otherwise its Cut or Reset was executed before.
func admit(a Append, current uint64) (begins bool, err error) {
	switch {
	case a.Incarnation == 0 || faults.Mutant("copies-without-incarnation"):
		return a.Cut || a.Reset, nil // an owner below feature level 5
	case a.Incarnation == current:
		return false, nil
	case (a.Cut || a.Reset) && a.Former == current:
		return true, nil
	}
	return false, ErrReplaced
}
