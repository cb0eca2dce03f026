package builds_test

import (
	"context"
	"errors"
	"testing"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

func Test_Watch_LatestWins(t *testing.T) {
	m := buildstest.NewMachine(t)
	id := m.Create("r:1").Build.Id
	w := m.Store.Watch(id)
	defer w.Close()
	m.Succeed(id) // does not block, although nothing reads the watch
	r, err := w.Next(t.Context())
	if err != nil || r.Build.Phase != builds.Succeeded {
		t.Fatalf("got %v, %v, want the last version", r.GetBuild().GetPhase(), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a version was returned twice: %v", err)
	}
}

func Test_Watch_TerminalOutlivesHistory(t *testing.T) {
	m := buildstest.NewMachine(t)
	id := m.Create("r:1").Build.Id
	w := m.Store.Watch(id)
	defer w.Close()
	m.Succeed(id)
	set := builds.DefaultSettings()
	set.HistoryMinAgeNanos, set.HistoryMaxAgeNanos = 0, 1
	m.Now = m.Now.Add(1000)
	m.Must(&buildsv1.PutSettings{Settings: set})
	if m.Store.Build(id) != nil {
		t.Fatal("the history still holds the build")
	}
	if r, err := w.Next(t.Context()); err != nil || r.Build.Phase != builds.Succeeded {
		t.Errorf("got %v, %v, want the terminal version", r.GetBuild().GetPhase(), err)
	}
}
