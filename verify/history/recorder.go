package history

import (
	"sync"
	"time"
)

// Recorder takes down the calls of concurrent clients. Order comes from a
// counter, not from a clock: two calls that touch differ even where time
// stands still. It is safe for concurrent use.
type Recorder struct {
	now func() time.Time

	mu      sync.Mutex
	counter int64
	records History
}

// NewRecorder answers an empty recorder. The clock only labels the calls for
// people; nil means time.Now.
func NewRecorder(now func() time.Time) *Recorder {
	if now == nil {
		now = time.Now
	}
	return &Recorder{now: now}
}

// Call is an operation under way. One of End, Unknown and Failed closes it;
// the first one counts. A call that nobody closes is taken as Unknown.
type Call struct {
	r *Recorder
	i int
}

// Begin notes that a client is about to send an operation.
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

// End notes the answer.
func (c *Call) End(out Outcome) { c.close(OK, out, nil) }

// Unknown notes that nobody knows whether the operation took or will take
// effect: UNAVAILABLE, DEADLINE_EXCEEDED, a broken connection.
func (c *Call) Unknown(err error) { c.close(Unknown, Outcome{}, err) }

// Failed notes that the operation certainly had no effect.
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

// History answers a copy of the calls so far.
func (r *Recorder) History() History {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append(History(nil), r.records...)
}
