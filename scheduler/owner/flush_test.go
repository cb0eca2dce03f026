package owner

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// lagging are logs whose other copies have everything after lag. Until then they have more each minute
// if they progress.
type lagging struct {
	nullLogs
	begun     time.Time
	lag       time.Duration
	progress  bool
	sealError error
}

func (l lagging) Create(*imagebuilderv1.Attempt, *imagebuilderv1.Build, *buildsv1.Secrets) (logs.AttemptWriter, error) {
	return l, nil
}

func (l lagging) Held() int64 {
	if l.progress {
		return int64(time.Since(l.begun) / time.Minute)
	}
	return 0
}

func (l lagging) Flush(ctx context.Context) error {
	select {
	case <-time.After(l.lag - time.Since(l.begun)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l lagging) Seal(context.Context) (int64, string, error) { return 7, "xxh64:0", l.sealError }

// Test_Flush_HasABound: the end of a workload waits for the copies of its log as long as they make
// progress.
func Test_Flush_HasABound(t *testing.T) {
	for name, c := range map[string]struct {
		lag       time.Duration
		progress  bool
		succeeded bool
	}{
		"a short time":     {lag: workload.CopiesTimeout - time.Second, succeeded: true},
		"with progress":    {lag: 5 * workload.CopiesTimeout, progress: true, succeeded: true},
		"with no progress": {lag: 5 * workload.CopiesTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := schedulertest.NewWorld(t, 1, 1)
				a := assign(w)
				stop := run(t, w, Options{Node: a.Owner, Logs: lagging{begun: time.Now(), lag: c.lag, progress: c.progress}})
				time.Sleep(min(c.lag, workload.CopiesTimeout) + time.Second)
				if c.progress {
					time.Sleep(c.lag)
				}
				r := w.Store.Build(a.BuildId)
				first := r.Build.Attempts[0]
				if (r.Build.Phase == builds.Succeeded) != c.succeeded {
					t.Errorf("the build is %s, its attempt %v", r.Build.Phase, first)
				}
				if !c.succeeded && (first.Phase != builds.Failed || first.Counted || !strings.Contains(first.Message, workload.ErrCopiesAway.Error())) {
					t.Errorf("the attempt is %v", first)
				}
				stop()
			})
		})
	}
}

// failing is a runtime whose workloads fail.
type failing struct{ schedulertest.Runtime }

func (failing) Run(context.Context, *workload.Workload, workload.Sink) (workload.Outcome, error) {
	return workload.Outcome{}, &workload.Failure{Blame: builds.BlameUser, Message: "exit code 1"}
}

// Test_Seal_ReportsMissingBytes: a log that ends before its last bytes is reported with the attempt.
func Test_Seal_ReportsMissingBytes(t *testing.T) {
	for name, c := range map[string]struct {
		seal error
		want string
	}{
		"complete":         {nil, "exit code 1"},
		"without its end":  {&logs.EndError{Missing: 500, Err: context.DeadlineExceeded}, "exit code 1 (the last 500 bytes of the log are lost)"},
		"unreadable, too":  {errors.Join(&logs.EndError{Missing: 500, Err: context.DeadlineExceeded}, errDiskFull), "exit code 1 (the last 500 bytes of the log are lost)"},
		"unreadable alone": {errDiskFull, "exit code 1"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := schedulertest.NewWorld(t, 1)
				a := assign(w)
				stop := run(t, w, Options{Node: a.Owner, Runtimes: runtimes(failing{}), Logs: lagging{sealError: c.seal}})
				time.Sleep(time.Second)
				if b := w.Store.Build(a.BuildId).Build; b.Phase != builds.Failed || b.Message != c.want {
					t.Errorf("the build is %s: %q", b.Phase, b.Message)
				}
				stop()
			})
		})
	}
}
