package verify

import (
	"context"
	"reflect"
	"strings"
	"time"

	"github.com/image-builder-ha/image-builder/client"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/verify/history"
)

// watch notes all that one node shows of the builds of this run.
func (r *run) watch(ctx context.Context, i int) {
	filter := &imagebuilderv1.BuildFilter{Labels: map[string]string{"verify": r.id}}
	for ctx.Err() == nil {
		_ = r.pinned[i].Watch(ctx, filter, func(e client.Event) error {
			r.saw(e.Build, r.o.Servers[i])
			return nil
		})
		wait(ctx, 200*time.Millisecond)
	}
}

// saw notes a version of a build, unless it was seen like that.
func (r *run) saw(b *imagebuilderv1.Build, server string) {
	if b.GetId() == "" {
		return
	}
	if r.canary.inMessage(b) {
		r.leaked("a build shown by "+server, b.Id)
	}
	s := Sight{Build: b.Id, Version: b.Version, Phase: history.See(b).Phase, Server: server, Attempts: attempts(b)}
	k := sightKey{b.Id, b.Version}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, other := range r.sights[k] {
		if other.Phase == s.Phase && reflect.DeepEqual(other.Attempts, s.Attempts) {
			return
		}
	}
	if r.sights[k] == nil {
		r.order = append(r.order, k)
	}
	r.sights[k] = append(r.sights[k], s)
}

// attempts answers the attempts of a build.
func attempts(b *imagebuilderv1.Build) (out []AttemptSeen) {
	for _, a := range b.Attempts {
		s := AttemptSeen{
			Number: a.Number, Phase: history.See(&imagebuilderv1.Build{Phase: a.Phase}).Phase, Epoch: a.Epoch, Counted: a.Counted,
			LogLength: a.GetLog().GetLength(), LogChecksum: a.GetLog().GetChecksum(), Message: a.Message,
		}
		if a.Log != nil {
			s.LogState = strings.ToLower(strings.TrimPrefix(a.Log.State.String(), "LOG_STATE_"))
		}
		out = append(out, s)
	}
	return out
}
