package logs

import "bytes"

// addWrapped adds a base64 text that is also removed if it is broken into lines.
func (r *Redactor) addWrapped(text []byte) {
	for _, have := range r.wrapped[text[0]] {
		if bytes.Equal(text, have) {
			return
		}
	}
	r.wrapped[text[0]] = append(r.wrapped[text[0]], text)
	for _, next := range []byte{text[1], '\n', '\r'} {
		r.addStart(text[0], next)
	}
}

// matchWrapped finds the longest base64 of a secret that begins at b[i], with or without line
// breaks in it. The results are those of match.
func (r *Redactor) matchWrapped(b []byte, i int) (end int, undecided bool) {
	for _, text := range r.wrapped[b[i]] {
		n, more := wrapsAt(text, b[i:])
		undecided = undecided || more
		if n > 0 {
			end = max(end, i+n)
		}
	}
	return end, undecided
}

// minColumns is the least length of a full line in wrapped base64. The usual lengths are 76 and 64.
const minColumns = 16

// wrapsAt returns the length of text at the start of b, including line breaks in it; 0 if b does
// not begin with it. undecided reports whether more input could change that.
func wrapsAt(text, b []byte) (n int, undecided bool) {
	for first := true; ; first = false {
		m := min(len(text), len(b)-n)
		if bytes.Equal(text[:m], b[n:n+m]) {
			if m < len(text) {
				return 0, true
			}
			return n + m, false
		}
		m = breakIn(b[n:], len(text))
		if m <= 0 || !first && m < minColumns || !bytes.Equal(text[:m], b[n:n+m]) {
			return 0, false
		}
		skip, more := lineBreak(b[n+m:])
		if skip == 0 {
			return 0, more
		}
		text, n = text[m:], n+m+skip
	}
}

// breakIn returns the end of the first line of b if it is before limit, else -1.
func breakIn(b []byte, limit int) int {
	m := bytes.IndexByte(b[:min(limit+1, len(b))], '\n')
	switch {
	case m > 0 && b[m-1] == '\r':
		m--
	case m < 0 && len(b) <= limit && b[len(b)-1] == '\r': // '\n' may follow in the next input
		m = len(b) - 1
	}
	if m >= limit {
		return -1
	}
	return m
}

// maxMark is the greatest length of the mark before a line of a step's output. maxIndent is the
// greatest number of spaces before a line that is quoted in a message.
const (
	maxMark   = 40
	maxIndent = 8
)

// lineBreak returns the length of a line break at the start of b, including the mark before each
// line of a step's output (`#12 3.456 `), or spaces, after it. undecided reports whether more input
// could change that. b must not be empty.
func lineBreak(b []byte) (n int, undecided bool) {
	if b[0] == '\r' {
		n = 1
	}
	if n == len(b) {
		return 0, true
	}
	if b[n] != '\n' {
		return 0, false
	}
	n++
	if n == len(b) {
		return 0, true
	}
	at := n
	for b[at] == ' ' && at-n < maxIndent {
		if at++; at == len(b) {
			return 0, true
		}
	}
	if at > n || b[at] != '#' {
		return at, false
	}
	at++
	for _, part := range []struct {
		digits bool
		then   byte
	}{{true, ' '}, {true, '.'}, {true, ' '}} {
		begin := at
		for at < len(b) && b[at] >= '0' && b[at] <= '9' && at-n < maxMark {
			at++
		}
		switch {
		case at == len(b):
			return 0, true
		case at == begin || b[at] != part.then:
			return n, false
		}
		at++
	}
	if at == len(b) {
		return 0, true
	}
	return at, false
}
