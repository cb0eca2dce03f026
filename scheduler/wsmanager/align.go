package wsmanager

import "bytes"

// minOverlap is how many bytes of a replay must equal the end of what is known
// to prove where it goes on.
const minOverlap = 512

// alignment is what a replay tells about where it began.
type alignment int

const (
	// aligned: the first skip bytes are known, the next one is new.
	aligned alignment = iota
	// open: more of the replay is needed.
	open
	// within: the replay so far lies somewhere inside of what is known.
	within
	// unrelated: the replay does not go on where the known output ended.
	unrelated
)

// align compares a replay with the known output of a terminal. A terminal
// replays all of its output, or the latest part of it: so the replay goes on
// after the known output if one of its beginnings is an end of that. complete
// says that the known output is everything since the terminal began.
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

// overlaps answers the length of the longest beginning of b that is an end of
// a, and whether all of b stands before the end of a.
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

// borders answers for each beginning of b the length of its longest proper
// border: a beginning that is also its end (Knuth, Morris and Pratt).
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
