package owner

import (
	"context"
	"fmt"
	"strings"
	"syscall"
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

// fullDiskLogs are logs on a full disk. They cannot be opened, or, if opens is set, not completed.
type fullDiskLogs struct {
	nullLogs
	opens bool
}

var errDiskFull = fmt.Errorf("%w (%w)", logs.ErrNoSpace, syscall.ENOSPC)

func (d fullDiskLogs) Create(*imagebuilderv1.Attempt, *imagebuilderv1.Build, *buildsv1.Secrets) (logs.AttemptWriter, error) {
	if !d.opens {
		return nil, errDiskFull
	}
	return d, nil
}

func (d fullDiskLogs) Seal(context.Context) (int64, string, error) { return 0, "", errDiskFull }

// Test_DiskFull_IsTheNodes: an attempt whose log finds no room ends as a failure of its node that
// is not counted. It ends after the leader has had the time to ping the node, so that the next
// attempt starts on another one.
func Test_DiskFull_IsTheNodes(t *testing.T) {
	for name, disk := range map[string]fullDiskLogs{"opened": {}, "completed": {opens: true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := schedulertest.NewWorld(t, 1, 1)
				a := assign(w)
				stop := run(t, w, Options{Node: a.Owner, Logs: disk})
				time.Sleep(diskFullPause - time.Millisecond)
				synctest.Wait()
				if b := w.Store.Build(a.BuildId).Build; b.Phase == builds.Queued {
					t.Error("the attempt ended before the leader could ping the node")
				}
				time.Sleep(time.Second)
				synctest.Wait()
				r := w.Store.Build(a.BuildId)
				first := r.Build.Attempts[0]
				if r.Build.Phase != builds.Queued || first.Phase != builds.Failed || first.Counted || r.CountedAttempts != 0 {
					t.Errorf("the build is %s, its attempt %v", r.Build.Phase, first)
				}
				if !strings.Contains(first.Message, "node "+a.Owner+" cannot write logs") {
					t.Errorf("the message is %q", first.Message)
				}
				stop()
			})
		})
	}
}

// latin1 is a runtime whose texts are not valid UTF-8.
type latin1 struct{ schedulertest.Runtime }

func (latin1) Run(_ context.Context, _ *workload.Workload, s workload.Sink) (workload.Outcome, error) {
	s.Steps([]*imagebuilderv1.Step{{Name: "RUN caf\xe9", Error: "caf\xe9"}})
	return workload.Outcome{}, &workload.Failure{Blame: builds.BlameUser, Message: "no such file: caf\xe9"}
}

// Test_Finish_WhateverTheText: an attempt ends although the texts of its runtime cannot be encoded.
func Test_Finish_WhateverTheText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := schedulertest.NewWorld(t, 1)
		a := assign(w)
		stop := run(t, w, Options{Node: a.Owner, Runtimes: runtimes(latin1{})})
		time.Sleep(time.Minute)
		b := w.Store.Build(a.BuildId).Build
		if b.Phase != builds.Failed || b.Message != "no such file: caf?" {
			t.Errorf("after a minute the build is %s: %q", b.Phase, b.Message)
		}
		stop()
	})
}
