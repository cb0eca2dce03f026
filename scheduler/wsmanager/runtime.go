package wsmanager

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"

	"github.com/image-builder-ha/image-builder/proto/wsman"
)

// Name is the name of the runtime in the replicated state.
const Name = "wsmanager"

// Runtime builds in Gitpod workspaces. Methods may be called concurrently.
type Runtime struct {
	opts   Options
	conn   *grpc.ClientConn
	client wsman.WorkspaceManagerClient
	feed   *feed
	http   *http.Client
	reach  *reachability

	cancel context.CancelFunc
	tasks  sync.WaitGroup

	mu      sync.Mutex
	running map[string]*running
}

func (r *Runtime) backoff() *backoff {
	return &backoff{min: r.opts.MinBackoff, max: r.opts.MaxBackoff}
}

// running is a call of Run that has not returned.
type running struct {
	stop context.CancelCauseFunc
	done chan struct{}
	// unsure reports that a start was requested and its result is not known yet.
	unsure atomic.Bool
}

var (
	// errStopped is the cause of a context that Stop ended.
	errStopped = errors.New("the workload was stopped")
	// errReplaced is the cause of a context that a later Run of the same workload ended.
	errReplaced  = errors.New("the workload is followed anew")
	errDeadline  = errors.New("deadline of the build")
	errNotOurs   = errors.New("not a name of a workload")
	errNoLogYet  = errors.New("the build workspace has no terminal yet")
	errLogAccess = errors.New("ws-manager did not report the address of the build workspace or its token")
)
