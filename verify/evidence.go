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

// Evidence is all that a run saw of a cluster.
type Evidence struct {
	Run    RunInfo
	Calls  history.History
	Sights []Sight
	Ends   []End
	Logs   []LogRead
	Images []ImageLook
	Leaks  []Leak
	Faults []Fault
}

// RunInfo says how the evidence came about.
type RunInfo struct {
	Servers []string  `json:"servers"`
	Profile string    `json:"profile"`
	Rate    float64   `json:"rate"`
	Began   time.Time `json:"began"`
	// Stopped is when no further builds were asked for; Ended when all of them
	// had ended or the patience was over.
	Stopped time.Time `json:"stopped"`
	Ended   time.Time `json:"ended"`
	// Skipped builds were not asked for since too many were under way.
	Skipped int `json:"skipped,omitempty"`
}

// Sight is one version of a build, as a watch or a read showed it. Sights of
// the same version by different nodes are one, unless they differ.
type Sight struct {
	Build   string        `json:"build"`
	Version uint64        `json:"version"`
	Phase   history.Phase `json:"phase"`
	Server  string        `json:"server"`
	// Attempts are those that there were, in order.
	Attempts []AttemptSeen `json:"attempts,omitempty"`
}

// AttemptSeen is one attempt as it was shown.
type AttemptSeen struct {
	Number  uint32        `json:"number"`
	Phase   history.Phase `json:"phase"`
	Epoch   uint64        `json:"epoch"`
	Counted bool          `json:"counted,omitempty"`
	// LogState, LogLength and LogChecksum describe its log.
	LogState    string `json:"logState,omitempty"`
	LogLength   int64  `json:"logLength,omitempty"`
	LogChecksum string `json:"logChecksum,omitempty"`
	Message     string `json:"message,omitempty"`
}

// End is how an acknowledged build ended.
type End struct {
	Build string `json:"build"`
	// Source is what was asked for, Ref what was published.
	Source string        `json:"source"`
	Ref    string        `json:"ref"`
	Phase  history.Phase `json:"phase"`
	// Expect is how it should end; empty if a cancellation leaves it open.
	Expect  history.Phase `json:"expect,omitempty"`
	Blame   string        `json:"blame,omitempty"`
	Message string        `json:"message,omitempty"`
	Digest  string        `json:"digest,omitempty"`
	// Attempts as the last answer showed them.
	Attempts []AttemptSeen `json:"attempts,omitempty"`
	// Acked and Seen are when it was acknowledged and seen to have ended.
	Acked time.Time `json:"acked"`
	Seen  time.Time `json:"seen"`
}

// LogRead is what one reader got of the log of one attempt.
type LogRead struct {
	Build   string `json:"build"`
	Attempt uint32 `json:"attempt"`
	Reader  string `json:"reader"`
	// Late: it read after the build had ended.
	Late   bool  `json:"late,omitempty"`
	Length int64 `json:"length"`
	// Checksum is `xxh64:` and hex over all bytes that were read.
	Checksum string `json:"checksum"`
	// Prefixes are, of a late reader, the checksums at the lengths at which
	// other readers broke off.
	Prefixes map[int64]string `json:"prefixes,omitempty"`
	// Error is why it did not reach the end.
	Error string    `json:"error,omitempty"`
	At    time.Time `json:"at"`
}

// ImageLook is what the registry answered for a published ref.
type ImageLook struct {
	Ref    string `json:"ref"`
	Build  string `json:"build"`
	Want   string `json:"want"`
	Got    string `json:"got,omitempty"`
	Error  string `json:"error,omitempty"`
	Builds int    `json:"builds"`
}

// Leak is a place where a secret of the run was readable.
type Leak struct {
	Where string    `json:"where"`
	Build string    `json:"build,omitempty"`
	At    time.Time `json:"at"`
}

// Fault is a time in which somebody broke something.
type Fault struct {
	Name  string    `json:"name"`
	Began time.Time `json:"began"`
	// Ended is zero while it lasts.
	Ended time.Time `json:"ended,omitzero"`
}

// line is one line of a saved file: one of its fields is set.
type line struct {
	Run   *RunInfo        `json:"run,omitempty"`
	Call  *history.Record `json:"call,omitempty"`
	Sight *Sight          `json:"sight,omitempty"`
	End   *End            `json:"end,omitempty"`
	Log   *LogRead        `json:"log,omitempty"`
	Image *ImageLook      `json:"image,omitempty"`
	Leak  *Leak           `json:"leak,omitempty"`
	Fault *Fault          `json:"fault,omitempty"`
}

// Save writes evidence as JSON lines.
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
	for i := range e.Sights {
		put(line{Sight: &e.Sights[i]})
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

// Load reads what Save wrote. Fields that it does not know are errors.
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
		case l.Sight != nil:
			e.Sights = append(e.Sights, *l.Sight)
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

// Faults takes down what is broken, and when. Safe for concurrent use.
type Faults struct {
	mu  sync.Mutex
	all []Fault
}

// Begin notes that a fault begins and answers what notes its end.
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

// End notes the end of the last fault of that name that has not ended, and
// reports whether there is one.
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

// All answers a copy.
func (f *Faults) All() []Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.all)
}
