package builds_test

import (
	"testing"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// withCopies returns a machine with three more nodes and a build whose log is on two of them, a and
// b. The owner is a.
func withCopies(t *testing.T) (*buildstest.Machine, string) {
	m := buildstest.NewMachine(t)
	for _, n := range []string{"a", "b", "c"} {
		m.Must(&buildsv1.NodeStarted{Name: n, StoreId: "s" + n, BootId: "1", Capacity: 4, Runtimes: []string{"copy"}})
	}
	id := m.Create("r:1").Build.Id
	b := m.Build(id)
	res := m.Must(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{{
		BuildId: id, Attempt: 1, Owner: "a", OwnerStoreId: "sa", Epoch: 1, BuildVersion: b.Version, Runtime: "copy",
		Copies: []*imagebuilderv1.LogCopy{{Node: "a", StoreId: "sa"}, {Node: "b", StoreId: "sb"}}, Replicas: 2,
	}}})
	if res.Refused > 0 {
		t.Fatal("the assignment was refused")
	}
	return m, id
}

func Test_LogCopies_AnotherCopySealsWhenTheOwnerIsLost(t *testing.T) {
	m, id := withCopies(t)
	m.Must(&buildsv1.NodeLost{Name: "a", StoreId: "sa", BootId: "1"})
	a := m.Build(id).Attempts[0]
	if a.Log.State != builds.LogSealing || a.Log.Sealer.GetNode() != "b" || a.Epoch < 2 {
		t.Fatalf("log %v epoch %d", a.Log, a.Epoch)
	}
	if res := m.Apply(&buildsv1.SealAttempt{BuildId: id, Attempt: 1, Epoch: 1, Length: 5}); res.Err == nil {
		t.Error("a seal of the former owner was accepted")
	}
	// The sealer is lost too. There is no sealer until one of the two nodes comes back.
	m.Must(&buildsv1.NodeLost{Name: "b", StoreId: "sb", BootId: "1"})
	if a = m.Build(id).Attempts[0]; a.Log.Sealer != nil {
		t.Fatalf("sealer %v", a.Log.Sealer)
	}
	m.Must(&buildsv1.NodeStarted{Name: "b", StoreId: "wiped", BootId: "2", Capacity: 4})
	if a = m.Build(id).Attempts[0]; a.Log.Sealer != nil {
		t.Fatalf("a node whose disk was wiped shall seal: %v", a.Log.Sealer)
	}
	m.Must(&buildsv1.NodeStarted{Name: "a", StoreId: "sa", BootId: "2", Capacity: 4})
	a = m.Build(id).Attempts[0]
	if a.Log.Sealer.GetNode() != "a" {
		t.Fatalf("sealer %v", a.Log.Sealer)
	}
	m.Must(&buildsv1.SealAttempt{BuildId: id, Attempt: 1, Epoch: a.Epoch, Length: 5, Copies: []*imagebuilderv1.LogCopy{{Node: "a", StoreId: "sa"}}})
	if a = m.Build(id).Attempts[0]; a.Log.State != builds.LogSealed || a.Log.Length != 5 || len(a.Log.Copies) != 1 {
		t.Errorf("log %v", a.Log)
	}
}

// Test_LogCopies_AnotherCopySealsWhatTheOwnerCannotOpen ends an attempt whose owner cannot open the
// log, because its copy is damaged. Readers have seen bytes of the log, so another copy seals it.
func Test_LogCopies_AnotherCopySealsWhatTheOwnerCannotOpen(t *testing.T) {
	for level, want := range map[uint32]imagebuilderv1.LogState{3: builds.LogSealed, 4: builds.LogSealing} {
		m, id := withCopies(t)
		m.Must(&buildsv1.SetFeatureLevel{Level: level})
		m.Finish(id, 1, &buildsv1.FinishAttempt{Phase: builds.Failed, Blame: builds.BlameInfrastructure, LogUnknown: true})
		a := m.Build(id).Attempts[0]
		if a.Log.State != want || a.Phase != builds.Failed {
			t.Fatalf("level %d: %v, log %v", level, a.Phase, a.Log)
		}
		if level >= 4 && (a.Log.Sealer.GetNode() != "b" || a.Epoch < 2) {
			t.Errorf("sealer %v, epoch %d", a.Log.Sealer, a.Epoch)
		}
	}
}

func Test_LogCopies_ChangeOnlyFromWhatIsInForce(t *testing.T) {
	m, id := withCopies(t)
	a := &imagebuilderv1.LogCopy{Node: "a", StoreId: "sa"}
	b := &imagebuilderv1.LogCopy{Node: "b", StoreId: "sb"}
	c := &imagebuilderv1.LogCopy{Node: "c", StoreId: "sc"}
	set := func(epoch uint64, former, copies []*imagebuilderv1.LogCopy) builds.Result {
		return m.Apply(&buildsv1.SetLogCopies{BuildId: id, Attempt: 1, Epoch: epoch, Former: former, Copies: copies})
	}
	ab, ac := []*imagebuilderv1.LogCopy{a, b}, []*imagebuilderv1.LogCopy{a, c}
	if set(1, ac, ab).Err != nil {
		t.Error("the current set was refused")
	}
	if set(2, ab, ac).Err == nil || set(1, ac, []*imagebuilderv1.LogCopy{c}).Err == nil || set(1, ab, nil).Err == nil {
		t.Error("a change of another epoch, of another set, or to none was accepted")
	}
	if set(1, ab, ac).Err != nil || !builds.HasCopy(m.Build(id).Attempts[0].Log.Copies, "c", "sc") {
		t.Error("the change was not accepted")
	}
}

// Test_LogCopies_AWipedNodeHoldsNothing brings the node of the second copy back with its name and
// an empty disk. Until a new copy on it is committed, it holds no copy. If the owner is lost as
// well, that node must not seal the log at the length of its empty disk.
func Test_LogCopies_AWipedNodeHoldsNothing(t *testing.T) {
	wiped := func(t *testing.T) (*buildstest.Machine, string) {
		m, id := withCopies(t)
		m.Must(&buildsv1.NodeLost{Name: "b", StoreId: "sb", BootId: "1"})
		m.Must(&buildsv1.NodeStarted{Name: "b", StoreId: "wiped", BootId: "2", Capacity: 4, Runtimes: []string{"copy"}})
		return m, id
	}
	t.Run("before it has caught up", func(t *testing.T) {
		m, id := wiped(t)
		m.Must(&buildsv1.NodeLost{Name: "a", StoreId: "sa", BootId: "1"})
		if l := m.Build(id).Attempts[0].Log; l.State != builds.LogSealing || l.Sealer != nil {
			t.Errorf("the log is %v, but no node that is there holds it", l)
		}
	})
	t.Run("after that", func(t *testing.T) {
		m, id := wiped(t)
		a := m.Build(id).Attempts[0]
		next := []*imagebuilderv1.LogCopy{{Node: "a", StoreId: "sa"}, {Node: "b", StoreId: "wiped"}}
		m.Must(&buildsv1.SetLogCopies{BuildId: id, Attempt: 1, Epoch: a.Epoch, Former: builds.CopiesOf(a), Copies: next})
		m.Must(&buildsv1.NodeLost{Name: "a", StoreId: "sa", BootId: "1"})
		if l := m.Build(id).Attempts[0].Log; l.State != builds.LogSealing || l.Sealer.GetNode() != "b" || l.Sealer.GetStoreId() != "wiped" {
			t.Errorf("the log is %v, want node b with its new disk to seal it", l)
		}
	})
}
