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

// watch records everything that one node reports about the builds of this run, until ctx ends.
func (r *run) watch(ctx context.Context, i int) {
	filter := &imagebuilderv1.BuildFilter{Labels: map[string]string{"verify": r.id}}
	for ctx.Err() == nil {
		_ = r.pinned[i].Watch(ctx, filter, func(e client.Event) error {
			r.record(e.Build, r.opts.Servers[i])
			return nil
		})
		wait(ctx, 200*time.Millisecond)
	}
}

// record adds an observation of a build, unless there is an equal one.
func (r *run) record(b *imagebuilderv1.Build, server string) {
	if b.GetId() == "" {
		return
	}
	if r.canary.inMessage(b) {
		r.leaked("a build returned by "+server, b.Id)
	}
	s := Observation{Build: b.Id, Version: b.Version, Phase: history.BuildStateOf(b).Phase, Server: server, Attempts: attempts(b)}
	k := observationKey{b.Id, b.Version}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, other := range r.observations[k] {
		if other.Phase == s.Phase && reflect.DeepEqual(other.Attempts, s.Attempts) {
			return
		}
	}
	if r.observations[k] == nil {
		r.order = append(r.order, k)
	}
	r.observations[k] = append(r.observations[k], s)
}

// attempts returns the states of the attempts of a build.
func attempts(b *imagebuilderv1.Build) (out []AttemptState) {
	for _, a := range b.Attempts {
		s := AttemptState{
			Number: a.Number, Phase: history.BuildStateOf(&imagebuilderv1.Build{Phase: a.Phase}).Phase, Epoch: a.Epoch, Counted: a.Counted,
			LogLength: a.GetLog().GetLength(), LogChecksum: a.GetLog().GetChecksum(), Message: a.Message,
		}
		if a.Log != nil {
			s.LogState = strings.ToLower(strings.TrimPrefix(a.Log.State.String(), "LOG_STATE_"))
		}
		out = append(out, s)
	}
	return out
}

// wait waits for d. It reports false if ctx ends first.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
