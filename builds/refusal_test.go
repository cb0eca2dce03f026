package builds_test

import (
	"errors"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// Test_Refusal_LikeApply: Refusal returns the BusyError of Apply, and nil for each request that Apply
// accepts.
func Test_Refusal_LikeApply(t *testing.T) {
	for name, c := range map[string]struct {
		queue uint32 // limit
		ids   int    // limit
		req   *buildsv1.CreateBuild
		want  error
	}{
		"there is room":            {req: &buildsv1.CreateBuild{Ref: "new:1"}},
		"the queue is full":        {queue: 1, req: &buildsv1.CreateBuild{Ref: "new:1"}, want: builds.ErrQueueFull},
		"it joins a build":         {queue: 1, req: &buildsv1.CreateBuild{Ref: "queued:1"}},
		"it is repeated":           {queue: 1, ids: 1, req: &buildsv1.CreateBuild{Ref: "queued:1", RequestId: "known", RequestHash: []byte("h")}},
		"the image was just built": {queue: 1, req: &buildsv1.CreateBuild{Ref: "built:1"}},
		"but it is forced":         {queue: 1, req: &buildsv1.CreateBuild{Ref: "built:1", Force: true}, want: builds.ErrQueueFull},
		"no room for its id":       {ids: 1, req: &buildsv1.CreateBuild{Ref: "new:1", RequestId: "new"}, want: builds.ErrTooManyRequests},
		"it has no id":             {ids: 1, req: &buildsv1.CreateBuild{Ref: "new:1"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := buildstest.NewMachine(t)
			m.Must(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
			m.Succeed(m.Create("built:1").Build.Id)
			m.Create("queued:1", buildstest.WithRequest("known", "h"))
			if c.queue > 0 {
				set := builds.DefaultSettings()
				set.QueueTotal = c.queue
				m.Must(&buildsv1.PutSettings{Settings: set})
			}
			if c.ids > 0 {
				m.Store.SetRequestLimit(c.ids)
			}
			c.req.Id, c.req.Requester = "0190a0b0-0000-7000-8000-00000000ffff", "alice"
			c.req.Source, c.req.TimeoutNanos = m.Build(m.Store.View().Newest("built:1").Build.Id).Source, int64(time.Hour)
			refused := m.Store.View().Refusal(c.req)
			applied := m.Apply(c.req).Err
			if !errors.Is(refused, c.want) || !errors.Is(applied, c.want) {
				t.Errorf("Refusal returns %v and Apply %v, want %v", refused, applied, c.want)
			}
		})
	}
}
