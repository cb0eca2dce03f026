package history

import (
	"sync"
	"time"
)

// Recorder records the calls of concurrent clients. A counter, not a clock, orders them, so that
// adjacent calls have an order even if the clock stands still. It is safe for concurrent use.
type Recorder struct {
	now func() time.Time

	mu      sync.Mutex
	counter int64
	records History
}

// NewRecorder returns an empty recorder. now provides the times for reports; time.Now if nil.
func NewRecorder(now func() time.Time) *Recorder {
	if now == nil {
		now = time.Now
	}
	return &Recorder{now: now}
}

// Call is an operation in progress. End, Unknown or Failed closes it; only the first of these
// counts. A call that is never closed has the status Unknown.
type Call struct {
	r *Recorder
	i int
}

// Begin records that a client is about to send an operation.
func (r *Recorder) Begin(client string, op Operation) *Call {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counter++
	r.records = append(r.records, Record{
		Client: client, Op: op, Status: Unknown,
		Start: r.counter, StartedAt: r.now(),
	})
	return &Call{r, len(r.records) - 1}
}

// End records the response.
func (c *Call) End(out Outcome) { c.close(OK, out, nil) }

// Unknown records an error after which the operation may have taken effect, or may still do so:
// UNAVAILABLE, DEADLINE_EXCEEDED, a broken connection.
func (c *Call) Unknown(err error) { c.close(Unknown, Outcome{}, err) }

// Failed records an error after which the operation certainly has no effect.
func (c *Call) Failed(err error) { c.close(Refused, Outcome{}, err) }

func (c *Call) close(s Status, out Outcome, err error) {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	rec := &c.r.records[c.i]
	if rec.End != 0 {
		return
	}
	c.r.counter++
	rec.End, rec.EndedAt = c.r.counter, c.r.now()
	rec.Status, rec.Out = s, out
	if err != nil {
		rec.Error = err.Error()
	}
}

// History returns a copy of the calls so far.
func (r *Recorder) History() History {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append(History(nil), r.records...)
}
