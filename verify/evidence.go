package verify

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/image-builder-ha/image-builder/verify/history"
)

// Evidence is everything that a run observed of a cluster.
type Evidence struct {
	Run          RunInfo
	Calls        history.History
	Observations []Observation
	Ends         []End
	Logs         []LogRead
	Images       []ImageCheck
	Leaks        []Leak
	Faults       []Fault
}

// RunInfo describes the run that collected the evidence.
type RunInfo struct {
	Servers []string  `json:"servers"`
	Profile string    `json:"profile"`
	Rate    float64   `json:"rate"`
	Began   time.Time `json:"began"`
	// Stopped is the time of the last request for a build. Ended is the time at which all builds had
	// ended, or Options.Patience had passed.
	Stopped time.Time `json:"stopped"`
	Ended   time.Time `json:"ended"`
	// Skipped is the number of builds that were not requested because Options.InFlight builds were
	// already in progress.
	Skipped int `json:"skipped,omitempty"`
}

// Observation is one version of a build, as a watch or a read returned it. Equal observations of
// the same version by different nodes are recorded once.
type Observation struct {
	Build   string        `json:"build"`
	Version uint64        `json:"version"`
	Phase   history.Phase `json:"phase"`
	Server  string        `json:"server"`
	// Attempts are the attempts at this version, in order.
	Attempts []AttemptState `json:"attempts,omitempty"`
}

// AttemptState is one attempt, as a response showed it.
type AttemptState struct {
	Number  uint32        `json:"number"`
	Phase   history.Phase `json:"phase"`
	Epoch   uint64        `json:"epoch"`
	Counted bool          `json:"counted,omitempty"`
	// LogState, LogLength (in bytes) and LogChecksum describe the log of the attempt.
	LogState    string `json:"logState,omitempty"`
	LogLength   int64  `json:"logLength,omitempty"`
	LogChecksum string `json:"logChecksum,omitempty"`
	Message     string `json:"message,omitempty"`
}

// End is the end of an acknowledged build.
type End struct {
	Build string `json:"build"`
	// Source names the requested source, Ref the published image.
	Source string        `json:"source"`
	Ref    string        `json:"ref"`
	Phase  history.Phase `json:"phase"`
	// Expect is the expected final phase; empty if the build was cancelled, which leaves it open.
	Expect  history.Phase `json:"expect,omitempty"`
	Blame   string        `json:"blame,omitempty"`
	Message string        `json:"message,omitempty"`
	Digest  string        `json:"digest,omitempty"`
	// Version is the version of the build in the last response. The versions of all builds grow with
	// the order of the commands.
	Version uint64 `json:"version,omitempty"`
	// Attempts are the attempts in the last response.
	Attempts []AttemptState `json:"attempts,omitempty"`
	// Acked is the time of the acknowledgement, Seen the time at which the client learned of the end.
	Acked time.Time `json:"acked"`
	Seen  time.Time `json:"seen"`
}

// LogRead is the part of an attempt's log that one reader received.
type LogRead struct {
	Build   string `json:"build"`
	Attempt uint32 `json:"attempt"`
	Reader  string `json:"reader"`
	// Late is set if the reader began after the end of the build.
	Late   bool  `json:"late,omitempty"`
	Length int64 `json:"length"`
	// Checksum is the XXH64 checksum of all bytes that were read: `xxh64:` and 16 hex digits.
	Checksum string `json:"checksum"`
	// Prefixes are the checksums of a late reader at the lengths at which other readers failed.
	Prefixes map[int64]string `json:"prefixes,omitempty"`
	// Error is the reason why the reader did not reach the end; empty if it did.
	Error string    `json:"error,omitempty"`
	At    time.Time `json:"at"`
}

// ImageCheck is the result of a look-up of a published ref in the registry. Want is the digest that
// the service reported, Got the digest in the registry. Builds counts the builds of the ref.
type ImageCheck struct {
	Ref    string `json:"ref"`
	Build  string `json:"build"`
	Want   string `json:"want"`
	Got    string `json:"got,omitempty"`
	Error  string `json:"error,omitempty"`
	Builds int    `json:"builds"`
}

// Leak is a place at which a secret of the run was readable.
type Leak struct {
	Where string    `json:"where"`
	Build string    `json:"build,omitempty"`
	At    time.Time `json:"at"`
}

// Fault is an injected fault and its period.
type Fault struct {
	Name  string    `json:"name"`
	Began time.Time `json:"began"`
	// Ended is zero while the fault lasts.
	Ended time.Time `json:"ended,omitzero"`
}

// line is one line of a saved file. Exactly one field is set.
type line struct {
	Run         *RunInfo        `json:"run,omitempty"`
	Call        *history.Record `json:"call,omitempty"`
	Observation *Observation    `json:"sight,omitempty"`
	End         *End            `json:"end,omitempty"`
	Log         *LogRead        `json:"log,omitempty"`
	Image       *ImageCheck     `json:"image,omitempty"`
	Leak        *Leak           `json:"leak,omitempty"`
	Fault       *Fault          `json:"fault,omitempty"`
}

// Save writes the evidence as JSON lines.
func (e *Evidence) Save(w io.Writer) error {
	b := bufio.NewWriter(w)
	enc := json.NewEncoder(b)
	var err error
	put := func(l line) {
		if err == nil {
			err = enc.Encode(l)
		}
	}
	put(line{Run: &e.Run})
	for i := range e.Calls {
		put(line{Call: &e.Calls[i]})
	}
	for i := range e.Observations {
		put(line{Observation: &e.Observations[i]})
	}
	for i := range e.Ends {
		put(line{End: &e.Ends[i]})
	}
	for i := range e.Logs {
		put(line{Log: &e.Logs[i]})
	}
	for i := range e.Images {
		put(line{Image: &e.Images[i]})
	}
	for i := range e.Leaks {
		put(line{Leak: &e.Leaks[i]})
	}
	for i := range e.Faults {
		put(line{Fault: &e.Faults[i]})
	}
	if err = errors.Join(err, b.Flush()); err != nil {
		return fmt.Errorf("save evidence: %w", err)
	}
	return nil
}

// Load reads evidence that Save wrote. Unknown fields are an error.
func Load(r io.Reader) (*Evidence, error) {
	dec := json.NewDecoder(bufio.NewReader(r))
	dec.DisallowUnknownFields()
	e := &Evidence{}
	for n := 1; ; n++ {
		var l line
		switch err := dec.Decode(&l); {
		case errors.Is(err, io.EOF):
			return e, nil
		case err != nil:
			return nil, fmt.Errorf("load evidence: record %d: %w", n, err)
		}
		switch {
		case l.Run != nil:
			e.Run = *l.Run
		case l.Call != nil:
			e.Calls = append(e.Calls, *l.Call)
		case l.Observation != nil:
			e.Observations = append(e.Observations, *l.Observation)
		case l.End != nil:
			e.Ends = append(e.Ends, *l.End)
		case l.Log != nil:
			e.Logs = append(e.Logs, *l.Log)
		case l.Image != nil:
			e.Images = append(e.Images, *l.Image)
		case l.Leak != nil:
			e.Leaks = append(e.Leaks, *l.Leak)
		case l.Fault != nil:
			e.Faults = append(e.Faults, *l.Fault)
		default:
			return nil, fmt.Errorf("load evidence: record %d is empty", n)
		}
	}
}

// Faults records injected faults with their periods. It is safe for concurrent use.
type Faults struct {
	mu  sync.Mutex
	all []Fault
}

// Begin records that a fault begins. The returned function records its end; it may be called more
// than once.
func (f *Faults) Begin(name string) (end func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := len(f.all)
	f.all = append(f.all, Fault{Name: name, Began: time.Now()})
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.all[i].Ended.IsZero() {
			f.all[i].Ended = time.Now()
		}
	}
}

// End records the end of the most recent fault of that name that has not ended. It reports whether
// there is one.
func (f *Faults) End(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range slices.Backward(f.all) {
		if f.all[i].Name == name && f.all[i].Ended.IsZero() {
			f.all[i].Ended = time.Now()
			return true
		}
	}
	return false
}

// All returns a copy of all recorded faults, in the order of their beginning.
func (f *Faults) All() []Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.all)
}
