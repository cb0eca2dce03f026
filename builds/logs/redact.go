package logs

import (
	"bytes"
	"encoding/binary"
	"math"
)

// Replacements in the redacted output. They are not empty, because the text before and after a
// removed secret could otherwise form another secret.
const (
	redacted = "[redacted]"
	censored = "[ref]"
)

// Redactor removes secrets and refs from a stream of output, however the stream is split into
// chunks. It removes every occurrence to its last byte, also where occurrences overlap.
type Redactor struct {
	// The pairs of bytes with which a pattern may begin. For the first byte a, sets[seconds[a]-1]
	// is the set of the second bytes; seconds[a] is 0 if there are none. This form is small,
	// because there is a Redactor for each running build.
	seconds [256]uint16
	sets    [][4]uint64
	byStart map[uint32][]pattern // key: first four bytes
	wrapped map[byte][][]byte    // base64 of secrets, maybe with line breaks; key: first byte
	held    []byte               // raw input that may be the start of a pattern
}

type pattern struct {
	text   []byte
	secret bool
}

// NewRedactor returns a redactor of secrets and of censored strings. Secrets of less than minSecret
// bytes are not redacted. The other ones are redacted in all encodings that variants returns.
func NewRedactor(secrets [][]byte, censor []string) *Redactor {
	r := &Redactor{byStart: map[uint32][]pattern{}, wrapped: map[byte][][]byte{}}
	for _, s := range secrets {
		plain, wrapped := variants(s)
		for _, v := range plain {
			if len(v) >= minSecret {
				r.addPattern(pattern{v, true})
			}
		}
		for _, v := range wrapped {
			if len(v) >= minSecret {
				r.addWrapped(v)
			}
		}
	}
	for _, c := range censor {
		if len(c) >= minCensored {
			r.addPattern(pattern{[]byte(c), false})
		}
	}
	return r
}

func (r *Redactor) addPattern(p pattern) {
	key := binary.LittleEndian.Uint32(p.text)
	for _, q := range r.byStart[key] {
		if bytes.Equal(p.text, q.text) {
			return
		}
	}
	r.byStart[key] = append(r.byStart[key], p)
	r.addStart(p.text[0], p.text[1])
}

// addStart records that a pattern may begin with the bytes a and b.
func (r *Redactor) addStart(a, b byte) {
	if r.seconds[a] == 0 {
		r.sets = append(r.sets, [4]uint64{})
		r.seconds[a] = uint16(len(r.sets)) // at most 256
	}
	r.sets[r.seconds[a]-1][b/64] |= 1 << (b % 64)
}

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

// add takes raw output for take.
func (r *Redactor) add(raw []byte) { r.held = append(r.held, raw...) }

// take returns redacted output, at most about limit bytes: a replacement that begins before limit
// may exceed it. more means that the next call returns more. final means that nothing follows, so
// that nothing is held back. A redactor that begins with the raw byte after consumed returns the
// same.
func (r *Redactor) take(final bool, limit int) (out []byte, consumed int, more bool) {
	b := r.held
	if len(r.byStart)+len(r.wrapped) == 0 {
		n := min(len(b), limit)
		r.held = b[n:]
		if n == len(b) {
			r.held = nil
		}
		return b[:n:n], n, n < len(b)
	}
	out = make([]byte, 0, min(len(b), limit))
	clean := 0 // b[clean:i] contains no pattern
	i := 0
	for i < len(b) {
		if len(out)+i-clean >= limit {
			more = true
			break
		}
		if i+1 < len(b) && !r.mayStart(b[i], b[i+1]) {
			i++
			continue
		}
		end, secret, undecided := r.match(b, i)
		if undecided && !final {
			break
		}
		if end == 0 {
			i++
			continue
		}
		end, secret, undecided = r.extend(b, i, end, secret, final)
		if undecided {
			break
		}
		out = append(out, b[clean:i]...)
		if secret {
			out = append(out, redacted...)
		} else {
			out = append(out, censored...)
		}
		i, clean = end, end
	}
	out = append(out, b[clean:i]...)
	r.held = append([]byte(nil), b[i:]...)
	return out, i, more
}

func (r *Redactor) mayStart(a, b byte) bool {
	set := r.seconds[a]
	return set != 0 && r.sets[set-1][b/64]&(1<<(b%64)) != 0
}

// match finds the longest pattern that begins at b[i]. end is the index after it, or 0 if there is
// none. undecided reports whether more input could lead to a match or to a longer one.
func (r *Redactor) match(b []byte, i int) (end int, secret, undecided bool) {
	rest := b[i:]
	end, undecided = r.matchWrapped(b, i)
	secret = end > 0
	if len(rest) < 4 {
		for _, list := range r.byStart {
			for _, p := range list {
				if bytes.HasPrefix(p.text, rest) {
					return 0, false, true
				}
			}
		}
		return end, secret, undecided
	}
	for _, p := range r.byStart[binary.LittleEndian.Uint32(rest)] {
		switch {
		case len(p.text) > len(rest):
			undecided = undecided || bytes.HasPrefix(p.text, rest)
		case i+len(p.text) > end && bytes.HasPrefix(rest, p.text):
			end, secret = i+len(p.text), secret || p.secret
		}
	}
	return end, secret, undecided
}

// extend extends the match b[i:end] by all matches that begin within it. undecided reports whether
// more input could extend it further.
func (r *Redactor) extend(b []byte, i, end int, secret, final bool) (int, bool, bool) {
	for k := i + 1; k < end; k++ {
		if k+1 < len(b) && !r.mayStart(b[k], b[k+1]) {
			continue
		}
		e, s, undecided := r.match(b, k)
		if undecided && !final {
			return end, secret, true
		}
		secret = secret || s
		end = max(end, e)
	}
	return end, secret, false
}

// String redacts a text as a whole.
func (r *Redactor) String(s string) string {
	one := *r
	one.held = nil
	a, _ := one.Write([]byte(s))
	b, _ := one.Flush()
	return string(append(a, b...))
}
