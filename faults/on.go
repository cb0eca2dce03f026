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

// Enabled tells that this binary can be hurt.
const Enabled = true

// State are the faults that are in force. Handler replaces it as JSON.
type State struct {
	// ClockOffset is added to the node's clock.
	ClockOffset time.Duration `json:"clock_offset"`
	// DiskDelay is added to each write of the log; DiskFull fails it.
	DiskDelay time.Duration `json:"disk_delay"`
	DiskFull  bool          `json:"disk_full"`
	// DiskTorn ends the process by SIGKILL in the middle of the next write to a
	// file of the log, after so many thousandths of it: 1 to 999. 0: never.
	DiskTorn int `json:"disk_torn"`
	// LogDelay is added to each fsync of a build's log.
	LogDelay time.Duration `json:"log_delay"`
	// Lose drops messages to the nodes of these names, Delay delays them.
	Lose  []string                 `json:"lose"`
	Delay map[string]time.Duration `json:"delay"`
}

var (
	mu    sync.RWMutex
	state State
)

// Set replaces the faults.
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

// Disk is called before each write of the replicated log.
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

// Torn answers how many bytes of a write reach the file before the process
// dies, and whether it does.
func Torn(p []byte) (int, bool) {
	s := get()
	return len(p) * s.DiskTorn / 1000, s.DiskTorn > 0
}

// LogSync is called before each fsync of a build's log.
func LogSync() {
	if d := get().LogDelay; d > 0 {
		time.Sleep(d)
	}
}

// Clock answers the time that the node believes in.
func Clock(t time.Time) time.Time { return t.Add(get().ClockOffset) }

var errLost = errors.New("the message was lost (fault)")

// Message is called before each message to a node.
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

// mutants are the defects that the environment switches on.
var mutants = strings.Split(os.Getenv("IMAGE_BUILDER_MUTANT"), ",")

// Mutant tells that the named defect is switched on.
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

// SetMutants switches defects on, all others off.
func SetMutants(names ...string) {
	mu.Lock()
	defer mu.Unlock()
	mutants = names
}

// Handler takes a State in the body of a POST and answers the one in force.
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
