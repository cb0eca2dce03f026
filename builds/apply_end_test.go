package builds_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

func Test_Retry_ByBlame(t *testing.T) {
	m := buildstest.NewMachine(t)
	for blame, want := range map[int32]int32{1: 7, 4: 7, 5: 7, 2: 1} {
		id := m.Create("r:" + phase(blame).String()).Build.Id
		m.Fail(id, blameOf(blame))
		m.WantPhase(id, phase(want))
	}
}

func Test_Retry_BudgetAndBackOff(t *testing.T) {
	m := buildstest.NewMachine(t)
	id := m.Create("r:1").Build.Id
	var pauses []time.Duration
	for m.Build(id).Phase == builds.Queued {
		m.Fail(id, builds.BlameInfrastructure)
		if nb := m.Build(id).NotBefore; nb != nil {
			pauses = append(pauses, nb.AsTime().Sub(m.Now))
		}
	}
	if diff := cmp.Diff([]time.Duration{time.Second, 2 * time.Second}, pauses); diff != "" {
		t.Error("pauses:", diff)
	}
	m.WantPhase(id, builds.Failed)
	if b := m.Build(id); len(b.Attempts) != 3 || b.Blame != builds.BlameInfrastructure || !b.Attempts[0].Counted {
		t.Errorf("got %d attempts, blame %s", len(b.Attempts), b.Blame)
	}
}

func Test_Retry_NodeEndsDoNotCount(t *testing.T) {
	m := buildstest.NewMachine(t)
	id := m.Create("r:1").Build.Id
	n := 0
	for m.Build(id).Phase == builds.Queued {
		m.Assign(id)
		n++
		m.Must(&buildsv1.NodeStarted{Name: "n1", StoreId: "s1", BootId: "boot-2" + string(rune('a'+n)), Capacity: 1, Runtimes: []string{"copy"}})
	}
	if n != 10 {
		t.Errorf("the build ended after %d lost attempts, want 10", n)
	}
	if r := m.Store.Build(id); r.CountedAttempts != 0 {
		t.Errorf("%d attempts were counted", r.CountedAttempts)
	}
}

func Test_Secrets_GoAtTheEnd(t *testing.T) {
	m := buildstest.NewMachine(t)
	id := m.Create("r:1", func(c *buildsv1.CreateBuild) { c.Sealed = &buildsv1.Sealed{KeyId: "k", Ciphertext: []byte("x")} }).Build.Id
	m.Fail(id, builds.BlameInfrastructure)
	if m.Store.Build(id).Secrets == nil {
		t.Fatal("secrets went although another attempt needs them")
	}
	m.Succeed(id)
	if m.Store.Build(id).Secrets != nil {
		t.Error("the record of an ended build has secrets")
	}
}
