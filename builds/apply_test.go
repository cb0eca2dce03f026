package builds_test

import (
	"errors"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

func Test_Time_NeverGoesBack(t *testing.T) {
	m := buildstest.NewMachine(t)
	before := m.Store.LastTime()
	m.Now = m.Now.Add(-time.Hour)
	m.Create("r:1")
	if got := m.Store.LastTime(); got != before {
		t.Errorf("time went from %d to %d", before, got)
	}
}

func Test_Apply_UnknownCommands(t *testing.T) {
	s := builds.NewStore()
	if out, ok := s.Apply(1, &clusterv1.Command{Type: 999, Ignorable: true}).(builds.Result); !ok || out.Err != nil {
		t.Errorf("ignorable command: %v", out)
	}
	for name, cmd := range map[string]*clusterv1.Command{
		"type":    {Type: 999},
		"level":   {Type: 1, FeatureLevel: builds.FeatureLevel + 1},
		"payload": {Type: 1, Payload: []byte{0xff}},
	} {
		err, ok := s.Apply(2, cmd).(error)
		var fatal interface{ Fatal() bool }
		if !ok || !errors.As(err, &fatal) {
			t.Errorf("unknown %s: got %v, want a fatal error", name, err)
		}
	}
}
