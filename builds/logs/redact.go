package logs

import (
	"math"

	"github.com/image-builder-ha/image-builder/faults"
)

// Replacements in the redacted output. They are not empty, because the text before and after a
// removed secret could otherwise form another secret.
const (
	redacted = "[redacted]"
	censored = "[ref]"
)

// maxRun is the length of a run of overlapping occurrences, in bytes, after which the run is
// replaced in parts. The bytes of a run are held back until its end is known.
const maxRun = 512

// Patterns are the secrets and refs that are removed from output. They do not change, and any
// number of Redactors may share them.
type Patterns struct {
	plain   *automaton
	wrapped *automaton // base64 of secrets, maybe with line breaks
	// The pairs of bytes with which a pattern may begin. For the first byte a, sets[seconds[a]-1]
	// is the set of the second bytes; seconds[a] is 0 if there are none.
	seconds [256]uint16
	sets    [][4]uint64
}

// NewPatterns returns the patterns for secrets and for censored strings. Secrets of less than
// minSecret bytes are not redacted. The other ones are redacted in all encodings that variants
// returns.
func NewPatterns(secrets [][]byte, censor []string) *Patterns {
	p := &Patterns{plain: newAutomaton(prefixBytes), wrapped: newAutomaton(prefixBytes)}
	for _, s := range secrets {
		plain, wrapped := variants(s)
		for _, v := range plain {
			if len(v) >= minSecret {
				p.addPlain(v, true)
			}
		}
		for _, v := range wrapped {
			if len(v) >= minSecret {
				p.addWrapped(v)
			}
		}
	}
	for _, c := range censor {
		if len(c) >= minCensored {
			p.addPlain([]byte(c), false)
		}
	}
	p.plain.link()
	p.wrapped.link()
	return p
}

func (p *Patterns) addPlain(text []byte, secret bool) {
	p.plain.add(text, secret)
	p.addStart(text[0], text[1])
}

// addWrapped adds a base64 text that is also removed if it is broken into lines.
func (p *Patterns) addWrapped(text []byte) {
	p.wrapped.add(text, true)
	for _, next := range []byte{text[1], '\n', '\r'} {
		p.addStart(text[0], next)
	}
}

// addStart records that a pattern may begin with the bytes a and b.
func (p *Patterns) addStart(a, b byte) {
	if p.seconds[a] == 0 {
		p.sets = append(p.sets, [4]uint64{})
		p.seconds[a] = uint16(len(p.sets)) // at most 256
	}
	p.sets[p.seconds[a]-1][b/64] |= 1 << (b % 64)
}

func (p *Patterns) mayStart(a, b byte) bool {
	set := p.seconds[a]
	return set != 0 && p.sets[set-1][b/64]&(1<<(b%64)) != 0
}

// Redactor returns a redactor of a new stream.
func (p *Patterns) Redactor() *Redactor {
	r := &Redactor{patterns: p, plain: matcher{automaton: p.plain}}
	r.lines.cur.automaton, r.lines.before.automaton = p.wrapped, p.wrapped
	return r
}

// String redacts a text as a whole.
func (p *Patterns) String(s string) string {
	r := p.Redactor()
	r.add([]byte(s))
	out, _, _ := r.take(true, math.MaxInt)
	return string(out)
}

// Redactor removes secrets and refs from a stream of output, however the stream is split into
// chunks. It removes every occurrence to its last byte, even where occurrences overlap. Its work is
// linear in the length of the stream. It holds back the bytes with which a pattern may begin, and
// up to about maxRun bytes of overlapping occurrences.
//
// Positions are those of the stream.
type Redactor struct {
	patterns *Patterns
	held     []byte // raw output from done on
	done     int    // all before is returned
	at       int    // all before is scanned

	plain  matcher
	lines  lineMatcher
	others stepSwitch

	occurrences
}

// NewRedactor returns a redactor of secrets and of censored strings (NewPatterns).
func NewRedactor(secrets [][]byte, censor []string) *Redactor {
	return NewPatterns(secrets, censor).Redactor()
}

// String redacts a text as a whole. It does not change r.
func (r *Redactor) String(s string) string { return r.patterns.String(s) }

// Write takes raw output and returns the redacted output that is final now. consumed is the number
// of raw bytes that it stands for. The rest is held back, because it may be the start of a pattern.
func (r *Redactor) Write(raw []byte) (out []byte, consumed int) {
	r.add(raw)
	out, consumed, _ = r.take(false, math.MaxInt)
	return out, consumed
}

// Flush returns the output that was held back. Call it if nothing follows.
func (r *Redactor) Flush() (out []byte, consumed int) {
	out, consumed, _ = r.take(true, math.MaxInt)
	return out, consumed
}

// Cut returns the output that is held back, although more of the stream may follow. It redacts the
// beginning of a secret too, if that has minSecret bytes or more. If the rest follows, the rest is
// redacted as well. So no part of a secret that is cut in two is visible.
func (r *Redactor) Cut() []byte {
	out, _, _ := r.take(false, math.MaxInt)
	if r.others.phase != noSwitch { // the rest of the line of a switch may not follow
		r.insertFound(r.others.part)
	}
	r.others = stepSwitch{}
	if start := r.pending(); r.at > r.done && r.at-start >= minSecret {
		r.addFound(span{start, r.at, true})
	}
	out, _ = r.emit(out, math.MaxInt, r.done, r.at)
	r.held = nil
	return out
}

// add takes raw output for take.
func (r *Redactor) add(raw []byte) { r.held = append(r.held, raw...) }

// take returns redacted output, at most about limit bytes: a replacement that begins before limit
// may exceed it. more means that the next call returns more. final means that nothing follows, so
// that nothing is held back. A new redactor that begins at raw byte consumed returns the same
// output from there on.
func (r *Redactor) take(final bool, limit int) (out []byte, consumed int, more bool) {
	begin := r.done
	end := begin + len(r.held)
	// Bytes that were scanned before usually stay held back: a secret may have 1 MiB.
	out = make([]byte, 0, min(end-r.at, limit))
	for {
		scanned := r.at == end
		settled := r.pending()
		if scanned && final {
			settled = end
		}
		if out, more = r.emit(out, limit, begin, settled); more || scanned {
			break
		}
		r.scan(begin, end)
	}
	if final && !more {
		r.found, r.first, r.last = nil, 0, 0
		r.plain.reset()
		r.lines.reset()
		r.others = stepSwitch{}
	}
	consumed = r.done - begin
	if r.held = r.held[consumed:]; consumed >= len(r.held) { // seldom, so that copying is cheap
		r.held = append([]byte(nil), r.held...)
	}
	return out, consumed, more
}

// pending returns the position of the first byte that may belong to an occurrence that has not
// ended.
func (r *Redactor) pending() int {
	at := min(r.at-r.plain.depth(), r.lines.pending(r.at))
	if r.others.phase != noSwitch {
		at = min(at, r.others.part.start)
	}
	return at
}

// scanStep is the number of bytes that are scanned at a time.
const scanStep = 4 << 10

// scan scans more of the held bytes, which begin at begin and end at end.
func (r *Redactor) scan(begin, end int) {
	b := r.held
	until := min(r.at+scanStep, end)
	for r.at < until {
		if r.plain.none() && r.lines.idle() && r.others.phase == noSwitch {
			i, n := r.at-begin, len(b)
			for i+1 < n && !r.patterns.mayStart(b[i], b[i+1]) {
				i++
			}
			if r.at = begin + i; r.at >= until {
				return
			}
		}
		c := b[r.at-begin]
		r.scanSwitch(c)
		length, secret, steps := r.plain.next(c)
		if r.work += steps; length > 0 {
			r.addFound(span{r.at + 1 - length, r.at + 1, secret})
		}
		r.lines.scan(&r.occurrences, r.at, c)
		r.at++
	}
}

// scanSwitch passes the byte c at position r.at to r.others, which searches for the lines of other
// steps. The matchers take the byte afterwards.
func (r *Redactor) scanSwitch(c byte) {
	if r.others.phase != noSwitch && r.others.scan(c) {
		r.insertFound(r.others.part)
	}
	if r.others.phase == noSwitch && r.others.endsLine(c) {
		if start := r.pending(); r.at-start >= minSecret {
			r.others.begin(span{start, r.at, true}, c)
		}
	}
}

// emit appends redacted output up to the position settled: no occurrence that is found later begins
// before it. more means that the limit is reached before. held begins at begin.
func (r *Redactor) emit(out []byte, limit, begin, settled int) (_ []byte, more bool) {
	for {
		next := settled
		if r.first < len(r.found) {
			next = min(next, r.found[r.first].start)
		}
		if r.done < next {
			n := min(next-r.done, max(limit-len(out), 0))
			out = append(out, r.held[r.done-begin:r.done-begin+n]...)
			if r.done += n; r.done < next {
				return out, true
			}
		}
		if r.first == len(r.found) || r.done < r.found[r.first].start {
			return out, false
		}
		end, ok := r.runEnd(settled)
		if !ok {
			return out, false
		}
		if len(out) >= limit {
			return out, true
		}
		if end > r.done { // otherwise Cut has returned it
			text := censored
			for _, s := range r.found[r.first : r.last+1] {
				if s.secret {
					text = redacted
					break
				}
			}
			out = append(out, text...)
			r.done = end
		}
		r.first = r.last + 1
		r.last = r.first
		if r.first == len(r.found) || r.first > len(r.found)/2 && r.first > 64 {
			r.found = append(r.found[:0], r.found[r.first:]...)
			r.first, r.last = 0, 0
		}
	}
}

// runEnd returns the end of the run that begins with found[first] at r.done: the end of overlapping
// occurrences, or the start of the first occurrence after maxRun bytes. A redactor that begins there
// finds the rest of the run. Its last occurrence is found[last] then. ok is false if the end is not
// known yet: occurrences that begin at settled or later may change.
func (r *Redactor) runEnd(settled int) (end int, ok bool) {
	for {
		last := r.found[r.last]
		if r.last+1 < len(r.found) && r.found[r.last+1].start < settled {
			next := r.found[r.last+1]
			r.work++
			switch {
			case next.start >= last.end:
				return last.end, true
			case next.start-r.done >= maxRun && !faults.Mutant("runs-of-any-length"):
				return next.start, true
			}
			r.last++
			continue
		}
		return last.end, last.end <= settled
	}
}
