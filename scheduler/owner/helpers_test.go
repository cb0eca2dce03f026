package owner

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/builds/logs"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// nullLogs drops all output. It is Logs, DamagedLogs and the writer of each log. Tests embed it and
// replace methods.
type nullLogs struct{}

func (nullLogs) Create(*imagebuilderv1.Attempt, *imagebuilderv1.Build, *buildsv1.Secrets) (logs.AttemptWriter, error) {
	return nullLogs{}, nil
}
func (nullLogs) Fence(logs.Key, uint64) (int64, string, error) { return 0, "", nil }
func (nullLogs) Copy(logs.Key, uint64, []*imagebuilderv1.LogCopy) (*logs.Feed, error) {
	return nil, errors.New("no copies")
}
func (nullLogs) Complete(logs.Key, int64) error         { return nil }
func (nullLogs) Completed(logs.Key) bool                { return true }
func (nullLogs) Damaged() ([]logs.Key, <-chan struct{}) { return nil, nil }
func (nullLogs) RemoveDamaged(logs.Key) error           { return nil }
func (nullLogs) VerifyCopy(context.Context, logs.Key, *imagebuilderv1.AttemptLog, *imagebuilderv1.LogCopy) error {
	return nil
}
func (nullLogs) Write(p []byte) (int, error)                 { return len(p), nil }
func (nullLogs) RawOffset() int64                            { return 0 }
func (nullLogs) Held() int64                                 { return 0 }
func (nullLogs) Marker(string) error                         { return nil }
func (nullLogs) Reposition(int64) error                      { return nil }
func (nullLogs) Redact(s string) string                      { return s }
func (nullLogs) Flush(context.Context) error                 { return nil }
func (nullLogs) Seal(context.Context) (int64, string, error) { return 0, "", nil }
func (nullLogs) Feed() *logs.Feed                            { return nil }
func (nullLogs) Close()                                      {}

// tagRegistry is a registry that remembers tags and has no image of a former attempt.
type tagRegistry struct {
	mu   sync.Mutex
	tags map[string]string
	// The first Publish closes arrived and blocks until release is closed, whatever its context
	// does. Both are nil if it must not block.
	arrived, release chan struct{}
	once             sync.Once
}

func (r *tagRegistry) Publish(_ context.Context, image, ref string) error {
	r.once.Do(func() {
		if r.arrived != nil {
			close(r.arrived)
			<-r.release
		}
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tags == nil {
		r.tags = map[string]string{}
	}
	r.tags[ref] = image
	return nil
}
func (r *tagRegistry) Exists(context.Context, string) (bool, error) { return false, nil }

// run runs an owner until stop is called. Fields of o that are not set have working defaults.
func run(t *testing.T, w *schedulertest.World, o Options) (stop func()) {
	t.Helper()
	o.StoreID, o.Store, o.Log, o.Keyring = "s", w.Store, slog.New(slog.DiscardHandler), schedulertest.NewKeyring(t)
	o.DamagedLogs, o.ReplaceAfter, o.RepairAfter = nullLogs{}, time.Hour, 100*time.Hour
	if o.Raft == nil {
		o.Raft = &schedulertest.Raft{W: w}
	}
	if o.Logs == nil {
		o.Logs = nullLogs{}
	}
	if o.Publisher == nil {
		o.Publisher = &tagRegistry{}
	}
	if o.Runtimes == nil {
		o.Runtimes = map[string]workload.Runtime{"copy": schedulertest.Runtime{}}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- New(o).Run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// runtimes returns a runtime under the name that assignments have.
func runtimes(rt workload.Runtime) map[string]workload.Runtime {
	return map[string]workload.Runtime{"copy": rt}
}

// assign creates a build and assigns it to a node.
func assign(w *schedulertest.World) *buildsv1.AssignAttempt_Assignment {
	w.T.Helper()
	w.Create("a")
	a := w.Assignment()
	w.Assign(a)
	return a
}

// other returns the other node of a world with two nodes.
func other(node string) string {
	if node == "n0" {
		return "n1"
	}
	return "n0"
}
