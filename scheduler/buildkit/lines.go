package buildkit

import (
	"bytes"
	"fmt"
	"io"
	"time"
)

// flushBytes is the amount of output that is buffered before it is written.
const flushBytes = 64 << 10

// lines writes numbered lines of several steps to one writer. An unfinished line stays open while
// no other step writes, so that output without line ends is not held back. While the step of the
// open line is busy, whole lines of other steps wait for the end of that line.
type lines struct {
	w      io.Writer
	buf    bytes.Buffer
	open   int // number of the step whose line is open; 0 if none
	busy   bool
	later  bytes.Buffer
	broken bool
	failed func(error)
}

// line writes one whole line of a step.
func (l *lines) line(number int, format string, args ...any) {
	to := &l.later
	if !l.busy || l.later.Len() > flushBytes {
		l.endLine()
	}
	if l.open == 0 {
		to = &l.buf
	}
	fmt.Fprintf(to, "#%d ", number)
	fmt.Fprintf(to, format, args...)
	to.WriteByte('\n')
}

// output writes output of a step. at is the time since the start of the step.
func (l *lines) output(number int, at time.Duration, data []byte) {
	if l.open != 0 && l.open != number {
		l.endLine()
	}
	for len(data) > 0 {
		if l.open == 0 {
			fmt.Fprintf(&l.buf, "#%d %s ", number, seconds(at))
			l.open = number
		}
		i := bytes.IndexByte(data, '\n')
		if i < 0 {
			l.buf.Write(data)
			break
		}
		l.buf.Write(data[:i+1])
		data = data[i+1:]
		l.ended()
		if l.buf.Len() > flushBytes {
			l.flush()
		}
	}
}

func (l *lines) endLine() {
	if l.open != 0 {
		l.buf.WriteByte('\n')
		l.ended()
	}
}

// ended records the end of the open line, and appends the lines that waited for it.
func (l *lines) ended() {
	l.open = 0
	_, _ = l.later.WriteTo(&l.buf) // writing to a buffer does not fail
}

// flush writes the buffered output. After a failed write, output is discarded.
func (l *lines) flush() {
	if l.buf.Len() > 0 && !l.broken {
		if _, err := l.w.Write(l.buf.Bytes()); err != nil {
			l.broken = true
			l.failed(err)
		}
	}
	l.buf.Reset()
}

// seconds formats a time as BuildKit does: with three digits after the point below 10 s, two below
// 100 s, and then one.
func seconds(d time.Duration) string {
	switch s := d.Seconds(); {
	case s < 10:
		return fmt.Sprintf("%.3f", s)
	case s < 100:
		return fmt.Sprintf("%.2f", s)
	default:
		return fmt.Sprintf("%.1f", s)
	}
}
