package builds_test

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// Test_NodeGone_EndsAttemptsInBatches runs more builds on a node than one command ends, and checks
// each command that ends them. Until the last one, the node neither comes back nor leaves the state.
func Test_NodeGone_EndsAttemptsInBatches(t *testing.T) {
	lost := &buildsv1.NodeLost{Name: "n1", StoreId: "s1", BootId: "b1", Reason: "test"}
	for title, c := range map[string]struct {
		level    uint32
		commands []proto.Message
		// left is the number of attempts that live after each command, and more its result.
		left []int
		more []bool
		// present reports whether the node takes attempts in the end.
		present bool
	}{
		"lost":                  {5, []proto.Message{lost, lost, lost, lost}, []int{1025, 1, 0, 0}, []bool{true, true, false, false}, false},
		"lost, below the level": {4, []proto.Message{lost}, []int{0}, []bool{false}, false},
		"a new process":         {5, repeated(&buildsv1.NodeStarted{Name: "n1", StoreId: "s1", BootId: "b2", Capacity: 1}, 3), []int{1025, 1, 0}, []bool{true, true, false}, true},
		"lost, then registered again": {
			5, append([]proto.Message{lost}, repeated(&buildsv1.NodeStarted{Name: "n1", StoreId: "s1", BootId: "b1", Capacity: 1}, 2)...),
			[]int{1025, 1, 0},
			[]bool{true, true, false},
			true,
		},
		"removed": {5, repeated(&buildsv1.ForgetNode{Name: "n1", StoreId: "s1"}, 3), []int{1025, 1, 0}, []bool{true, true, false}, false},
	} {
		t.Run(title, func(t *testing.T) {
			m := buildstest.NewMachine(t)
			m.Must(&buildsv1.SetFeatureLevel{Level: c.level})
			m.Must(&buildsv1.NodeStarted{Name: "n1", StoreId: "s1", BootId: "b1", Capacity: 1})
			for i := range 2*builds.MaxEndedAttempts + 1 {
				m.Assign(m.Create(fmt.Sprint("r:", i)).Build.Id)
			}
			for i, cmd := range c.commands {
				res := m.Must(cmd)
				if n := m.Store.View().Counts().Live; n != c.left[i] || res.More != c.more[i] {
					t.Fatalf("after command %d, %d attempts live and there is more: %v; want %d, %v", i+1, n, res.More, c.left[i], c.more[i])
				}
			}
			n := m.Store.View().Node("n1")
			if present := n != nil && !n.Lost; present != c.present {
				t.Errorf("the node is present: %v", present)
			}
		})
	}
}

func repeated(m proto.Message, n int) (out []proto.Message) {
	for range n {
		out = append(out, m)
	}
	return out
}
