package wsmanager

import (
	"bytes"

	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// marker is the line in the log where it cannot be proven that the output goes
// on exactly where it was left.
const marker = "image-builder: read the output of the build anew; here it may repeat or lack something"

// markers is a sink that takes lines which are not part of the raw output, so
// that Offset stays a position in the terminal.
type markers interface{ Marker(line string) error }

// output is what was taken from one terminal.
type output struct {
	sink workload.Sink
	// limit is how much a terminal keeps at most, and is remembered here; whole
	// is how much it keeps at least.
	limit, whole int
	// known is the latest output; complete: all since the terminal began.
	known    []byte
	complete bool
	// stored is how much a former owner stored, whose bytes are not known here.
	stored int64
}

func newOutput(sink workload.Sink, limit, whole int) *output {
	o := &output{sink: sink, limit: limit, whole: whole, stored: sink.Offset()}
	o.complete = o.stored == 0
	return o
}

// write stores new output and remembers it.
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
	if len(o.known)+len(p) > 2*o.limit { // seldom, so that moving is cheap
		o.known = append([]byte(nil), o.known[max(0, len(o.known)-o.limit):]...)
		p = p[max(0, len(p)-o.limit):]
	}
	o.known = append(o.known, p...)
}

// mark adds a line of our own.
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

// replay is the beginning of one connection, until it is known where it goes
// on.
type replay struct {
	out     *output
	got     []byte
	decided bool
}

// take adds what the terminal sent.
func (r *replay) take(p []byte) error {
	if r.decided {
		return r.out.write(p)
	}
	if o := r.out; o.complete && len(o.known) == 0 {
		return r.accept(p)
	}
	r.got = append(r.got, p...)
	if r.byLength() {
		if len(r.got) >= r.out.whole {
			return r.lost() // what was before may be gone
		}
		return nil
	}
	skip, a := align(r.out.known, r.out.complete, r.got)
	switch {
	case a == aligned:
		return r.accept(r.got[skip:])
	case a == unrelated || len(r.got) >= 2*r.out.limit:
		return r.lost()
	}
	return nil
}

// byLength: nothing is known of the stored output but its length.
func (r *replay) byLength() bool { return len(r.out.known) == 0 && r.out.stored > 0 }

// quiet decides when the terminal has said nothing for a while; final, that it
// will not wait any longer.
func (r *replay) quiet(final bool) error {
	switch {
	case r.decided || len(r.got) == 0:
		return nil
	case r.byLength():
		// Less than a terminal keeps: so it is all since the beginning.
		if n := r.out.stored; int64(len(r.got)) >= n {
			r.out.remember(r.got[:n])
			r.out.complete = true
			return r.accept(r.got[n:])
		}
		if !final {
			return nil
		}
		return r.lost()
	}
	_, a := align(r.out.known, r.out.complete, r.got)
	if a == within && !final {
		return nil // the network may be slow
	}
	return r.lost()
}

// end decides at the end of the stream. clean: the terminal ended it; else the
// connection broke, and the next one tells more.
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

// lost begins the knowledge anew with this replay.
func (r *replay) lost() error {
	got := r.got
	r.decided, r.got = true, nil
	err := r.out.mark(marker)
	r.out.known, r.out.complete, r.out.stored = nil, len(got) < r.out.whole, 0
	if err != nil {
		return err
	}
	return r.out.write(got)
}
