package wsmanager

import (
	"bytes"

	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// marker is the line in the log where it cannot be proven that the output continues without a gap.
const marker = "image-builder: the output of the build was read again; here it may repeat or lack some lines"

// markers is a sink that accepts lines outside of the raw output, and a new position, so that
// Offset stays a position in the terminal.
type markers interface {
	Marker(line string) error
	// Reposition sets Offset to the position at which the next output begins.
	Reposition(offset int64) error
}

// output is the output that was read from one terminal.
type output struct {
	sink workload.Sink
	// limit is the maximum number of bytes that a terminal keeps, and that is kept here. minKept is
	// the minimum.
	limit, minKept int
	// known is the latest output. complete means that it is the whole output since the terminal
	// started.
	known    []byte
	complete bool
	// stored is the number of bytes that a former owner stored. Their content is not known here.
	stored int64
}

func newOutput(sink workload.Sink, limit, minKept int) *output {
	o := &output{sink: sink, limit: limit, minKept: minKept, stored: sink.Offset()}
	o.complete = o.stored == 0
	return o
}

// write stores new output and adds it to known.
func (o *output) write(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	_, err := o.sink.Write(p)
	o.remember(p)
	return err
}

func (o *output) remember(p []byte) {
	if len(o.known)+len(p) > o.limit {
		o.complete = false
	}
	if len(o.known)+len(p) > 2*o.limit { // rarely, so that copying is cheap
		o.known = append([]byte(nil), o.known[max(0, len(o.known)-o.limit):]...)
		p = p[max(0, len(p)-o.limit):]
	}
	o.known = append(o.known, p...)
}

// mark writes a line that is not output of the build.
func (o *output) mark(line string) error {
	if m, ok := o.sink.(markers); ok {
		return m.Marker(line)
	}
	if n := len(o.known); n > 0 && o.known[n-1] != '\n' {
		line = "\n" + line
	}
	_, err := o.sink.Write([]byte(line + "\n"))
	return err
}

// replay is the beginning of a connection, until it is decided which part of it is new.
type replay struct {
	out     *output
	got     []byte
	decided bool
}

// take adds output from the terminal.
func (r *replay) take(p []byte) error {
	if r.decided {
		return r.out.write(p)
	}
	if o := r.out; o.complete && len(o.known) == 0 {
		return r.accept(p)
	}
	r.got = append(r.got, p...)
	if r.byLength() {
		if len(r.got) >= r.out.minKept {
			return r.restart() // earlier output may be lost
		}
		return nil
	}
	skip, a := align(r.out.known, r.out.complete, r.got)
	switch {
	case a == aligned:
		return r.accept(r.got[skip:])
	case a == unrelated || len(r.got) >= 2*r.out.limit:
		return r.restart()
	}
	return nil
}

// byLength reports whether only the length of the stored output is known.
func (r *replay) byLength() bool { return len(r.out.known) == 0 && r.out.stored > 0 }

// quiet decides after the terminal has sent nothing for ReplayQuiet. final means that it must not
// wait any longer.
func (r *replay) quiet(final bool) error {
	switch {
	case r.decided || len(r.got) == 0:
		return nil
	case r.byLength():
		// The replay is shorter than the minimum that a terminal keeps, so it is the whole output.
		if n := r.out.stored; int64(len(r.got)) >= n {
			r.out.remember(r.got[:n])
			r.out.complete = true
			return r.accept(r.got[n:])
		}
		if !final {
			return nil
		}
		return r.restart()
	}
	_, a := align(r.out.known, r.out.complete, r.got)
	if a == within && !final {
		return nil // the network may be slow
	}
	return r.restart()
}

// end decides at the end of the stream. clean means that the terminal ended it; otherwise the
// connection broke, and the next connection decides.
func (r *replay) end(clean bool) error {
	if r.decided || !clean {
		return nil
	}
	if !r.byLength() {
		if _, a := align(r.out.known, r.out.complete, r.got); a == within || bytes.HasSuffix(r.out.known, r.got) {
			return nil // nothing new
		}
	}
	return r.quiet(true)
}

func (r *replay) accept(fresh []byte) error {
	r.decided, r.got = true, nil
	return r.out.write(fresh)
}

// restart replaces the known output by this replay. The replay begins at the start of the terminal,
// or is at least as long as minKept. In the second case its position is not known, and a next owner
// does not use the position, because its own replay is that long, too.
func (r *replay) restart() error {
	got := r.got
	r.decided, r.got = true, nil
	err := r.out.mark(marker)
	r.out.known, r.out.complete, r.out.stored = nil, len(got) < r.out.minKept, 0
	if err != nil {
		return err
	}
	if m, ok := r.out.sink.(markers); ok {
		if err := m.Reposition(0); err != nil {
			return err
		}
	}
	return r.out.write(got)
}
