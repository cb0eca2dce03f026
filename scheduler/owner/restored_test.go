package owner

import (
	"testing"
	"testing/synctest"

	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// takenLogs are there already, as from before a snapshot was restored.
type takenLogs struct {
	silent
	err error
}

func (l takenLogs) Create(*imagebuilderv1.Attempt, *imagebuilderv1.Build, *buildsv1.Secrets) (logs.AttemptWriter, error) {
	return nil, l.err
}

// Test_Restored_ALogOfBeforeDoesNotCount: an attempt whose log is there already
// from before a restore ends, and does not use up the build's attempts.
func Test_Restored_ALogOfBeforeDoesNotCount(t *testing.T) {
	for name, err := range map[string]error{"complete": logs.ErrSealed, "of a greater epoch": logs.ErrFenced} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := schedulertest.NewWorld(t, 1)
				build, stop := startOwner(t, w, takenLogs{err: err}, &slowTags{})
				synctest.Wait()
				r := w.Store.Build(build)
				if r.Build.Phase != builds.Queued || r.Build.Attempts[0].Counted || r.CountedAttempts != 0 {
					t.Errorf("the build is %s, its attempt %v", r.Build.Phase, r.Build.Attempts[0])
				}
				stop()
			})
		})
	}
}
