//go:build faults

package chaos

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"time"
)

// Step is one fault of a schedule.
type Step struct {
	// After is the time from the end of the previous step. Lasts is the duration of the step.
	After time.Duration `json:"after"`
	Lasts time.Duration `json:"lasts"`
	// Fault is a name in nemeses.
	Fault string `json:"fault"`
	// Order is the order in which nodes become victims. With Leader, the leader comes first.
	Leader bool  `json:"leader,omitempty"`
	Order  []int `json:"order"`
	// Amount is the strength of the fault, from 0 to 1.
	Amount float64 `json:"amount"`
}

// String formats the step on one line.
func (s Step) String() string {
	victim := fmt.Sprint(s.Order[0])
	if s.Leader {
		victim = "leader"
	}
	return fmt.Sprintf("%s (%s, %.2f) for %s", s.Fault, victim, s.Amount, s.Lasts.Round(time.Millisecond))
}

// Schedule is a sequence of faults for a cluster with a number of nodes.
type Schedule struct {
	Seed  uint64 `json:"seed"`
	Nodes int    `json:"nodes"`
	Steps []Step `json:"steps"`
}

// NewSchedule returns the schedule of a seed: a sequence of the named faults with the given total
// length.
func NewSchedule(seed uint64, nodes int, length time.Duration, faults []string) Schedule {
	r := rand.New(rand.NewPCG(seed, 1))
	s := Schedule{Seed: seed, Nodes: nodes}
	span := func(from, to time.Duration) time.Duration {
		return (from + time.Duration(r.Int64N(int64(to-from)))).Round(time.Millisecond)
	}
	for at := time.Duration(0); ; {
		st := Step{
			After: span(time.Second, 6*time.Second), Lasts: span(500*time.Millisecond, 8*time.Second),
			Fault: faults[r.IntN(len(faults))], Leader: r.IntN(2) == 0, Order: r.Perm(nodes), Amount: r.Float64(),
		}
		if at += st.After + st.Lasts; at > length {
			return s
		}
		s.Steps = append(s.Steps, st)
	}
}

// Save writes a schedule with one step on each line.
func (s Schedule) Save(w io.Writer) error {
	enc := json.NewEncoder(w)
	if err := enc.Encode(struct {
		Seed  uint64 `json:"seed"`
		Nodes int    `json:"nodes"`
	}{s.Seed, s.Nodes}); err != nil {
		return err
	}
	for _, st := range s.Steps {
		if err := enc.Encode(st); err != nil {
			return err
		}
	}
	return nil
}

// LoadSchedule reads the output of Save.
func LoadSchedule(r io.Reader) (s Schedule, err error) {
	dec := json.NewDecoder(bufio.NewReader(r))
	if err := dec.Decode(&s); err != nil {
		return s, fmt.Errorf("load schedule: %w", err)
	}
	for {
		var st Step
		switch err := dec.Decode(&st); {
		case errors.Is(err, io.EOF):
			return s, nil
		case err != nil:
			return s, fmt.Errorf("load schedule: step %d: %w", len(s.Steps)+1, err)
		case len(st.Order) != s.Nodes:
			return s, fmt.Errorf("load schedule: step %d orders %d of %d nodes", len(s.Steps)+1, len(st.Order), s.Nodes)
		}
		s.Steps = append(s.Steps, st)
	}
}

// Shrink returns a smaller schedule that still fails. It leaves out halves, quarters, and so on
// down to single steps, until it has called fails tries times. fails runs a schedule.
func Shrink(s Schedule, tries int, fails func(Schedule) bool) Schedule {
	for part := (len(s.Steps) + 1) / 2; part >= 1 && tries > 0; {
		smaller := false
		for from := 0; from < len(s.Steps) && tries > 0; {
			c := s
			c.Steps = slices.Delete(slices.Clone(s.Steps), from, min(from+part, len(s.Steps)))
			tries--
			if len(c.Steps) > 0 && fails(c) {
				s, smaller = c, true
				continue
			}
			from += part
		}
		if part == 1 && !smaller {
			break
		}
		if part > 1 {
			part = (part + 1) / 2
		}
	}
	return s
}
