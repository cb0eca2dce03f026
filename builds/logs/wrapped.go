package logs

import "sort"

// minColumns is the least length of a full line in wrapped base64. The usual lengths are 76 and 64.
const minColumns = 16

// maxMark is the greatest length of the mark before a line of a step's output. maxIndent is the
// greatest number of spaces before a line that is quoted in a message.
const (
	maxMark   = 40
	maxIndent = 8
)

// lineMatcher finds base64 texts in a stream, even if they are broken into lines of at least
// minColumns characters. The first and the last line may be shorter. A line break is a line end,
// and the spaces or the mark (`#12 3.456 `) after it.
type lineMatcher struct {
	cur textState
	// before is the state before a line break whose mark is not complete. cur is then the state of
	// a text that begins in the mark.
	before  textState
	phase   linePhase
	breakAt int  // position of the line break, while phase is not inText
	length  int  // number of spaces, or length of the mark
	digits  bool // the part of the mark has a digit
}

// textState is a position in a text without its line breaks.
type textState struct {
	matcher
	n      int         // characters since no pattern has begun
	column int         // characters since the last line break
	breaks []lineBreak // in the n characters
}

// lineBreak is a line break after n characters, at a position of the stream.
type lineBreak struct{ n, at int }

type linePhase uint8

const (
	inText linePhase = iota
	afterReturn
	inIndent
	inNumber // the parts of a mark
	inSeconds
	inFraction
)

// afterPart is the byte after each part of a mark.
var afterPart = [...]byte{inNumber: ' ', inSeconds: '.', inFraction: ' '}

func (m *lineMatcher) reset() {
	m.cur.clear()
	m.before.clear()
	m.phase = inText
}

func (m *lineMatcher) idle() bool { return m.phase == inText && m.cur.none() }

// pending returns the position of the first byte of a text that has not ended. The stream ends at
// at.
func (m *lineMatcher) pending(at int) int {
	switch m.phase {
	case inText:
		return m.cur.position(m.cur.depth(), at)
	case afterReturn, inIndent:
		return m.cur.position(m.cur.depth(), m.breakAt)
	}
	return m.before.position(m.before.depth(), m.breakAt)
}

// position returns the position of the character that is depth characters before the end of the
// last line, which is at end.
func (s *textState) position(depth, end int) int {
	n := s.n - depth
	if depth <= s.column {
		return end - depth
	}
	i := sort.Search(len(s.breaks), func(i int) bool { return s.breaks[i].n > n })
	if i == len(s.breaks) {
		return end - depth
	}
	return s.breaks[i].at - (s.breaks[i].n - n)
}

// scan passes the byte c, which is at the position at. It adds the texts that end there.
func (m *lineMatcher) scan(o *occurrences, at int, c byte) {
	switch m.phase {
	case afterReturn:
		if c == '\n' {
			m.newLine(o)
			return
		}
		m.cur.clear()
		m.phase = inText
	case inIndent:
		switch {
		case c == ' ' && m.length < maxIndent:
			m.length++
			return
		case c == '#' && m.length == 0:
			m.phase, m.length, m.digits = inNumber, 1, false
			m.before, m.cur = m.cur, m.before
			m.cur.clear()
			return
		}
		m.continues()
	case inNumber, inSeconds, inFraction:
		switch {
		case c >= '0' && c <= '9' && m.length < maxMark:
			m.length, m.digits = m.length+1, true
			m.text(o, at, c)
			return
		case c == afterPart[m.phase] && m.digits:
			m.text(o, at, c)
			m.length, m.digits = m.length+1, false
			if m.phase++; m.phase > inFraction {
				m.before, m.cur = m.cur, m.before
				m.continues()
			}
			return
		}
		m.phase = inText // no mark
	}
	if !m.cur.none() && (c == '\n' || c == '\r') {
		if m.breakAt, m.phase = at, afterReturn; c == '\n' {
			m.newLine(o)
		}
		return
	}
	m.text(o, at, c)
}

// newLine drops texts whose full line is too short.
func (m *lineMatcher) newLine(o *occurrences) {
	if s := &m.cur; s.column < minColumns {
		o.work += s.shorten(s.column)
	}
	if m.phase, m.length = inIndent, 0; m.cur.none() {
		m.cur.clear()
		m.phase = inText
	}
}

// continues continues the text after a line break.
func (m *lineMatcher) continues() {
	m.cur.breaks = append(m.cur.breaks, lineBreak{m.cur.n, m.breakAt})
	m.cur.column = 0
	m.phase = inText
}

// text passes a character of the text.
func (m *lineMatcher) text(o *occurrences, at int, c byte) {
	s := &m.cur
	length, _, steps := s.next(c)
	o.work += steps
	s.n++
	s.column++
	if length > 0 {
		o.addFound(span{s.position(length, at+1), at + 1, true})
	}
	if s.none() {
		s.clear()
		return
	}
	for first := s.n - s.depth(); len(s.breaks) > 0 && s.breaks[0].n <= first; {
		s.breaks = s.breaks[1:]
	}
}

// clear begins a new text.
func (s *textState) clear() {
	s.reset()
	s.n, s.column, s.breaks = 0, 0, s.breaks[:0]
}
