package scheduler

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
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
		w := newWorld(t, 1)
		raft := &oneNode{w: w}
		w.ask("a")
		a := w.decide().assign[0]
		w.apply(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{a}})
		owner := NewOwner(OwnerOptions{
			Node: a.Owner, StoreID: "s", Store: w.store, Raft: raft, Keyring: newKeyring(t), Logs: silent{}, Publisher: away{},
			Runtimes: map[string]Runtime{"copy": raft}, Log: slog.New(slog.DiscardHandler), ReplaceAfter: time.Hour, RepairAfter: time.Hour,
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- owner.Run(ctx) }()
		time.Sleep(registryTime - time.Second)
		if p := w.store.Build(a.BuildId).Build.Phase; p != builds.Pushing {
			t.Errorf("the build is %s", p)
		}
		time.Sleep(2 * time.Second)
		b := w.store.Build(a.BuildId).Build
		if first := b.Attempts[0]; b.Phase != builds.Queued || first.Counted || !strings.Contains(first.Message, "could not be reached") {
			t.Errorf("the build is %s, its attempt %v", b.Phase, first)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
