package owner

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"

	"github.com/image-builder-ha/image-builder/builds"
)

// away is a registry that the node does not reach.
type away struct{}

func (away) Publish(ctx context.Context, _, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}
func (away) Exists(context.Context, string) (bool, error) { return false, nil }

// Test_Publish_ARegistryThatStaysAway: an attempt that can only not be published
// ends after a while, for another node to go on, and does not count.
func Test_Publish_ARegistryThatStaysAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := schedulertest.NewWorld(t, 1)
		build, stop := startOwner(t, w, silent{}, away{})
		time.Sleep(registryTime - time.Second)
		if p := w.Store.Build(build).Build.Phase; p != builds.Pushing {
			t.Errorf("the build is %s", p)
		}
		time.Sleep(2 * time.Second)
		b := w.Store.Build(build).Build
		if first := b.Attempts[0]; b.Phase != builds.Queued || first.Counted || !strings.Contains(first.Message, "could not be reached") {
			t.Errorf("the build is %s, its attempt %v", b.Phase, first)
		}
		stop()
	})
}
