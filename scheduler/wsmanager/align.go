package wsmanager

import "bytes"

// minOverlap is how many bytes of a replay must equal the end of the known output to prove that the
// replay continues it.
const minOverlap = 512

// alignment says how a replay relates to the known output.
type alignment int

const (
	// aligned: the first skip bytes are known, and the rest is new.
	aligned alignment = iota
	// open: more of the replay is needed.
	open
	// within: so far, the replay repeats a part inside of the known output.
	within
	// unrelated: the replay does not continue the known output.
	unrelated
)

// align compares a replay with the known output of a terminal. A terminal replays all of its
// output, or the latest part. Therefore the replay continues the known output if a prefix of the
// replay is a suffix of the known output. complete means that known is the whole output since the
// terminal started.
func align(known []byte, complete bool, replay []byte) (skip int, a alignment) {
	if complete && bytes.HasPrefix(replay, known) {
		return len(known), aligned
	}
	overlap, inner := overlaps(replay, known)
	var next int
	if overlap > 0 {
		next = borders(replay[:overlap])[overlap-1]
	}
	switch {
	case overlap >= minOverlap && next < minOverlap && !inner:
		return overlap, aligned
	case inner:
		return 0, within
	case overlap > 0:
		return overlap, open
	}
	return 0, unrelated
}

// overlaps returns the length of the longest prefix of b that is a suffix of a. inner reports
// whether all of b occurs in a before its end.
func overlaps(b, a []byte) (overlap int, inner bool) {
	if len(b) == 0 {
		return 0, true
	}
	fail := borders(b)
	q := 0
	for i, c := range a {
		for q > 0 && (q == len(b) || b[q] != c) {
			q = fail[q-1]
		}
		if b[q] == c {
			q++
		}
		if q == len(b) && i < len(a)-1 {
			inner = true
		}
	}
	return q, inner
}

// borders returns, for each prefix of b, the length of its longest proper border: a proper prefix
// that is also a suffix (Knuth, Morris and Pratt).
func borders(b []byte) []int {
	fail := make([]int, len(b))
	for i, q := 1, 0; i < len(b); i++ {
		for q > 0 && b[q] != b[i] {
			q = fail[q-1]
		}
		if b[q] == b[i] {
			q++
		}
		fail[i] = q
	}
	return fail
}
