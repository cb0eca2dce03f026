//go:build faults

package faults

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Enabled reports whether this binary supports faults.
const Enabled = true

// State is the set of active faults. Handler replaces it as JSON.
type State struct {
	// ClockOffset is added to the node's clock.
	ClockOffset time.Duration `json:"clock_offset"`
	// DiskDelay is added to each write of the log. DiskFull makes each write fail with ENOSPC.
	DiskDelay time.Duration `json:"disk_delay"`
	DiskFull  bool          `json:"disk_full"`
	// DiskTorn is the part of the next write to a file of the log, in thousandths (1 to 999), after
	// which SIGKILL ends the process. 0 disables it.
	DiskTorn int `json:"disk_torn"`
	// LogDelay is added to each fsync of a build's log.
	LogDelay time.Duration `json:"log_delay"`
	// Lose drops messages to the named nodes, "*" to all. Delay delays messages to the named nodes.
	Lose  []string                 `json:"lose"`
	Delay map[string]time.Duration `json:"delay"`
	// Diverge is the number of a change that the next command makes in addition, in the replicated
	// state of this node only. 0 disables it.
	Diverge int `json:"diverge"`
}

var (
	mu    sync.RWMutex
	state State
)

// Set replaces the active faults.
func Set(s State) {
	mu.Lock()
	defer mu.Unlock()
	state = s
}

func get() State {
	mu.RLock()
	defer mu.RUnlock()
	return state
}

// Disk is called before each write of the replicated log and returns the error to inject. It also
// makes the write slow.
func Disk() error {
	s := get()
	if s.DiskDelay > 0 {
		time.Sleep(s.DiskDelay)
	}
	if s.DiskFull {
		return syscall.ENOSPC
	}
	return nil
}

// Torn returns how many bytes of a write reach the file before the process dies, and whether it
// dies.
func Torn(p []byte) (int, bool) {
	s := get()
	return len(p) * s.DiskTorn / 1000, s.DiskTorn > 0
}

// Diverge returns the number of the change to make in the state of this node, once; 0 if there is
// none.
func Diverge() int {
	mu.Lock()
	defer mu.Unlock()
	n := state.Diverge
	state.Diverge = 0
	return n
}

// LogSync is called before each fsync of a build's log.
func LogSync() {
	if d := get().LogDelay; d > 0 {
		time.Sleep(d)
	}
}

// Clock returns the time of the node's clock, given that of the machine.
func Clock(t time.Time) time.Time { return t.Add(get().ClockOffset) }

var errLost = errors.New("the message was lost (fault)")

// Message is called before each message to a node. It returns an error if the message is lost.
func Message(ctx context.Context, node string) error {
	s := get()
	for _, n := range s.Lose {
		if n == node || n == "*" {
			return errLost
		}
	}
	if d := s.Delay[node]; d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// mutants are the names of the defects that are on. IMAGE_BUILDER_MUTANT sets them at the start.
var mutants = strings.Split(os.Getenv("IMAGE_BUILDER_MUTANT"), ",")

// Mutant reports whether the defect with that name is on.
func Mutant(name string) bool {
	mu.RLock()
	defer mu.RUnlock()
	for _, m := range mutants {
		if m == name {
			return true
		}
	}
	return false
}

// SetMutants turns the named defects on and all others off.
func SetMutants(names ...string) {
	mu.Lock()
	defer mu.Unlock()
	mutants = names
}

// Handler replaces the faults by a State in the body of a POST, and returns the active State.
func Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			var s State
			if err := json.NewDecoder(r.Body).Decode(&s); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			Set(s)
		}
		_ = json.NewEncoder(w).Encode(get())
	})
}
