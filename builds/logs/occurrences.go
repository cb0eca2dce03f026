package logs

import "slices"

// occurrences has, in found, the occurrences that are not returned yet and that no other one
// contains. Their starts grow, and so do their ends. The first run of overlapping occurrences begins
// with found[first], and goes at least up to found[last].
type occurrences struct {
	found       []span
	first, last int

	work int // number of visited states, for tests
}

// span is an occurrence of a pattern.
type span struct {
	start, end int
	secret     bool // it contains a secret
}

// addFound adds an occurrence that ends at the last byte that was scanned. It does not begin before
// the pending byte.
func (o *occurrences) addFound(s span) {
	n := len(o.found)
	for ; n > o.first; n-- {
		top := &o.found[n-1]
		if top.end == s.end && top.start <= s.start {
			top.secret = top.secret || s.secret
			return
		}
		if top.start < s.start {
			break
		}
		s.secret = s.secret || top.secret
		o.work++
	}
	o.found = append(o.found[:n], s)
}

// insertFound adds an occurrence whose start is the pending byte. Occurrences that begin in it may
// have been added before. It replaces those that it contains.
func (o *occurrences) insertFound(s span) {
	n := len(o.found)
	for ; n > o.first && o.found[n-1].start >= s.start; n-- {
		o.work++
	}
	inside := n // the occurrences found[n:inside] are in s
	for inside < len(o.found) && o.found[inside].end <= s.end {
		s.secret = s.secret || o.found[inside].secret
		inside++
	}
	if inside < len(o.found) && o.found[inside].start == s.start { // it contains s
		o.found[inside].secret = o.found[inside].secret || s.secret
		o.found = slices.Delete(o.found, n, inside)
		return
	}
	o.found = slices.Replace(o.found, n, inside, s)
}
