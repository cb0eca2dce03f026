package buildkit

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Name is the name of the runtime in the replicated state.
const Name = "buildkit"

// Runtime solves Dockerfile builds on BuildKit daemons. Methods may be called concurrently.
type Runtime struct {
	opts          Options
	pool          *pool
	watchInterval time.Duration // timeout of, and pause between, pings of a daemon that works

	mu      sync.Mutex
	running map[string]*running
}

// running is a workload that this process runs.
type running struct {
	stop context.CancelCauseFunc
	done chan struct{}
}

// errStopped is the cause of a context that Stop has ended.
var errStopped = errors.New("the workload was stopped")

var errDeadline = errors.New("deadline of the build")
