package builds_test

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
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

// Test_Apply_UnknownFeatureLevel raises the level of the cluster above that of this version. The
// level adds only fields, so that all commands that follow could be decoded. The version stops at
// the command that raises the level. Versions up to 0.3.0 check only the level that the command
// itself needs, and do not say it in the command.
func Test_Apply_UnknownFeatureLevel(t *testing.T) {
	for level := uint32(2); level <= builds.FeatureLevel+1; level++ {
		known := level <= builds.FeatureLevel
		cmd, err := builds.NewCommand(&buildsv1.SetFeatureLevel{Level: level})
		if err != nil {
			t.Fatal(err)
		}
		if cmd.FeatureLevel != level {
			t.Errorf("the command that sets level %d needs level %d", level, cmd.FeatureLevel)
		}
		former := proto.CloneOf(cmd)
		former.FeatureLevel = 1
		for name, cmd := range map[string]*clusterv1.Command{"of this version": cmd, "of 0.3.0": former} {
			s := builds.NewStore()
			err, failed := s.Apply(1, cmd).(error)
			var fatal interface{ Fatal() bool }
			if failed == known || failed && !errors.As(err, &fatal) {
				t.Errorf("a command %s that sets level %d: got %v, want a fatal error: %v", name, level, err, !known)
			}
			if got := s.View().Index(); (got == 1) != known {
				t.Errorf("a command %s that sets level %d: the state is at index %d", name, level, got)
			}
		}
	}
}
