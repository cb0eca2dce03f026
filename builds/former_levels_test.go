package builds_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Test_FormerLevels_SameState applies a fixed sequence of commands at each feature level below 5, and
// compares all states on the way with those of the version before indexes, batches and encoded
// builds. A node of that version runs beside this one at these levels.
func Test_FormerLevels_SameState(t *testing.T) {
	for level, want := range map[uint32]string{
		2: "e60a063639d462ff85835e2c4c1929d3",
		3: "b63082eefe54444a142eba59eba13c62",
		4: "402eef3e70cd5497a1f888244cbbece8",
	} {
		t.Run(fmt.Sprint("level ", level), func(t *testing.T) {
			if got := playFormer(t, level); got != want {
				t.Errorf("the states have the hash %s, want %s", got, want)
			}
		})
	}
}

// playFormer applies pseudo-random commands and returns a hash of the states after them.
func playFormer(t *testing.T, level uint32) string {
	m := buildstest.NewMachine(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	states := sha256.New()
	m.Must(&buildsv1.SetFeatureLevel{Level: level})
	settings := func(total, perRequester int64) {
		m.Must(&buildsv1.PutSettings{Settings: &buildsv1.Settings{
			Attempts: 3, UncountedAttempts: 10, QueueTotal: 100_000, RetryBaseNanos: int64(time.Second), RetryMaxNanos: int64(time.Minute),
			HistoryTotal: total, HistoryPerRequester: perRequester, HistoryMinAgeNanos: int64(time.Minute), RequestIdAgeNanos: int64(time.Hour),
		}})
	}
	var ids []string
	create := func(ref string) {
		res := m.Create(ref, buildstest.By(fmt.Sprint("u", rnd.IntN(5))), func(c *buildsv1.CreateBuild) {
			c.Force = rnd.IntN(4) == 0
			c.TimeoutNanos = int64(time.Duration(1+rnd.IntN(3600)) * time.Second)
		})
		if res.Build != nil && !res.Attached {
			ids = append(ids, res.Build.Id)
		}
	}
	pick := func() *buildsv1.Record {
		for len(ids) > 0 {
			i := rnd.IntN(len(ids))
			if r := m.Store.Build(ids[i]); r != nil {
				return r
			}
			ids = append(ids[:i], ids[i+1:]...) // the history has removed it
		}
		create(fmt.Sprint("r:", m.Index))
		return m.Store.Build(ids[0])
	}
	assign := func(r *buildsv1.Record) {
		m.Apply(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{{
			BuildId: r.Build.Id, Attempt: uint32(len(r.Build.Attempts) + 1), Epoch: builds.MaxEpoch(r.Build) + 1, Owner: "n1", OwnerStoreId: "s1",
			BuildVersion: r.Build.Version, Runtime: "copy", Replicas: 1, Adoptable: rnd.IntN(3) == 0,
			Copies: []*imagebuilderv1.LogCopy{{Node: "n1", StoreId: "s1"}},
		}}})
	}
	settings(300, 80)
	for step := range 3000 {
		r := pick()
		a := builds.LastAttempt(r.Build)
		switch n := rnd.IntN(100); {
		case n < 30:
			create(fmt.Sprint("r:", rnd.IntN(400)))
		case n < 55:
			assign(r)
		case n < 65:
			m.Apply(&buildsv1.ReportPhase{BuildId: r.Build.Id, Attempt: a.GetNumber(), Epoch: a.GetEpoch(), Phase: phase(int32(rnd.IntN(9))), Digest: fmt.Sprint("sha256:", rnd.IntN(3))})
		case n < 80:
			m.Apply(&buildsv1.FinishAttempt{
				BuildId: r.Build.Id, Attempt: a.GetNumber(), Epoch: a.GetEpoch(), Phase: phase(int32(rnd.IntN(9))), Blame: blameOf(int32(rnd.IntN(6))),
				Digest: a.GetDigest(), LogLength: int64(rnd.IntN(100)),
			})
		case n < 88:
			m.Stop(r.Build.Id, buildsv1.StopReason(1+rnd.IntN(3)), r.Build.Requester)
		case n < 92:
			m.Apply(&buildsv1.ExpireLogs{BuildIds: []string{r.Build.Id}})
		case n < 97:
			m.Now = m.Now.Add(time.Duration(rnd.IntN(20)) * time.Second)
			m.Apply(&buildsv1.Reap{})
		case n < 98:
			m.Apply(&buildsv1.NodeLost{Name: "n1", StoreId: "s1", BootId: m.Store.View().Node("n1").GetBootId(), Reason: "test", AllAttempts: rnd.IntN(2) == 0})
		default:
			m.Must(&buildsv1.NodeStarted{Name: "n1", StoreId: "s1", BootId: fmt.Sprint(m.Index), Capacity: 1, Runtimes: []string{"copy"}})
		}
		if step%50 == 0 {
			states.Write(buildstest.Dump(t, m.Store))
		}
	}
	// More attempts than a command ends at level 5, most of them the last ones of their builds, with
	// a history that is far beyond its limits.
	settings(100_000, 0)
	m.Must(&buildsv1.NodeStarted{Name: "n1", StoreId: "s1", BootId: "many", Capacity: 1, Runtimes: []string{"copy"}})
	for i := range 1500 {
		create(fmt.Sprint("many:", i))
		if r := m.Store.Build(ids[len(ids)-1]); r.Build.Phase == builds.Queued {
			assign(r)
		}
		m.Stop(ids[len(ids)-1], buildsv1.StopReason_STOP_REASON_OPERATOR, "")
		if i%2 == 0 {
			create(fmt.Sprint("ended:", i))
			m.Stop(ids[len(ids)-1], buildsv1.StopReason_STOP_REASON_OPERATOR, "")
		}
	}
	m.Now = m.Now.Add(time.Hour)
	settings(1000, 20)
	m.Must(&buildsv1.NodeLost{Name: "n1", StoreId: "s1", BootId: "many", Reason: "test", AllAttempts: true})
	states.Write(buildstest.Dump(t, m.Store))
	m.Must(&buildsv1.ForgetNode{Name: "n1", StoreId: "s1"})
	states.Write(buildstest.Dump(t, m.Store))
	return hex.EncodeToString(states.Sum(nil)[:16])
}
