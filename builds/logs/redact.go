package logs

import (
	"bytes"
	"encoding/binary"
)

// What stands in the output for what was taken out of it. Nothing is ever
// replaced by nothing: two ends that join could form a secret.
const (
	redacted = "[redacted]"
	censored = "[ref]"
)

// Redactor takes secrets and refs out of a stream of output, wherever the
// stream is cut into chunks. Every occurrence is covered to its last byte,
// also where occurrences overlap.
type Redactor struct {
	// Which two bytes begin a pattern: for each first byte, 1 and more for a set
	// of second ones. There is a Redactor for each running build, so it is small.
	seconds [256]uint16
	sets    [][4]uint64
	byStart map[uint32][]pattern // by the first four bytes
	wrapped map[byte][][]byte    // base64 of secrets, in lines or not, by the first byte
	held    []byte               // raw input that may be the beginning of a pattern
}

type pattern struct {
	text   []byte
	secret bool
}

// NewRedactor answers a redactor of secrets (those of 6 bytes or more, in all
// their encodings) and of censored strings.
func NewRedactor(secrets [][]byte, censor []string) *Redactor {
	r := &Redactor{byStart: map[uint32][]pattern{}, wrapped: map[byte][][]byte{}}
	for _, s := range secrets {
		plain, wrapped := variants(s)
		for _, v := range plain {
			if len(v) >= minSecret {
				r.add(pattern{v, true})
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
			r.add(pattern{[]byte(c), false})
		}
	}
	return r
}

func (r *Redactor) add(p pattern) {
	key := binary.LittleEndian.Uint32(p.text)
	for _, q := range r.byStart[key] {
		if bytes.Equal(p.text, q.text) {
			return
		}
	}
	r.byStart[key] = append(r.byStart[key], p)
	r.begins(p.text[0], p.text[1])
}

// begins notes that a pattern may begin with these two bytes.
func (r *Redactor) begins(a, b byte) {
	if r.seconds[a] == 0 {
		r.sets = append(r.sets, [4]uint64{})
		r.seconds[a] = uint16(len(r.sets)) // 256 at most
	}
	r.sets[r.seconds[a]-1][b/64] |= 1 << (b % 64)
}

// Write takes raw output and answers what may be shown of all that was taken
// so far, and how many raw bytes that is made of. The rest is held back.
func (r *Redactor) Write(raw []byte) (out []byte, consumed int) {
	r.held = append(r.held, raw...)
	return r.scan(false)
}

// Flush answers what was held back: nothing follows.
func (r *Redactor) Flush() (out []byte, consumed int) { return r.scan(true) }

func (r *Redactor) scan(final bool) (out []byte, consumed int) {
	b := r.held
	if len(r.byStart)+len(r.wrapped) == 0 {
		r.held = nil
		return b, len(b)
	}
	out = make([]byte, 0, len(b))
	clean := 0 // b[clean:i] is known to be clean
	i := 0
	for i < len(b) {
		if i+1 < len(b) && !r.mayStart(b[i], b[i+1]) {
			i++
			continue
		}
		end, secret, open := r.match(b, i)
		if open && !final {
			break
		}
		if end == 0 {
			i++
			continue
		}
		end, secret, open = r.cover(b, i, end, secret, final)
		if open {
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
	return out, i
}

func (r *Redactor) mayStart(a, b byte) bool {
	set := r.seconds[a]
	return set != 0 && r.sets[set-1][b/64]&(1<<(b%64)) != 0
}

// match looks for the longest pattern that begins at b[i:]. end is where it
// ends, 0 if there is none; open says that more input could make it a (longer)
// match.
func (r *Redactor) match(b []byte, i int) (end int, secret, open bool) {
	rest := b[i:]
	end, open = r.matchWrapped(b, i)
	secret = end > 0
	if len(rest) < 4 {
		for _, list := range r.byStart {
			for _, p := range list {
				if bytes.HasPrefix(p.text, rest) {
					return 0, false, true
				}
			}
		}
		return end, secret, open
	}
	for _, p := range r.byStart[binary.LittleEndian.Uint32(rest)] {
		switch {
		case len(p.text) > len(rest):
			open = open || bytes.HasPrefix(p.text, rest)
		case i+len(p.text) > end && bytes.HasPrefix(rest, p.text):
			end, secret = i+len(p.text), secret || p.secret
		}
	}
	return end, secret, open
}

// cover widens the match b[i:end] by all that begin within it. open says that
// more input could widen it further.
func (r *Redactor) cover(b []byte, i, end int, secret, final bool) (int, bool, bool) {
	for k := i + 1; k < end; k++ {
		if k+1 < len(b) && !r.mayStart(b[k], b[k+1]) {
			continue
		}
		e, s, open := r.match(b, k)
		if open && !final {
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
