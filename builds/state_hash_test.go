package builds_test

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// checkHash compares the hash that follows the changes with that of a snapshot of the state.
func checkHash(t interface{ Fatalf(string, ...any) }, tb testing.TB, s *builds.Store) {
	want, err := builds.HashSnapshot(bytes.NewReader(buildstest.Dump(tb, s)))
	if err != nil {
		t.Fatalf("%v", err)
	}
	if got := s.Hash(); got != want {
		t.Fatalf("the hash of the changes is %x, that of the whole state %x", got, want)
	}
}

// commandsOf returns n commands of several kinds, step apart in time.
func commandsOf(t testing.TB, n int, step time.Duration) (out []*clusterv1.Command) {
	t.Helper()
	now := time.Unix(1_700_000_000, 0)
	add := func(payload proto.Message) {
		cmd, err := builds.NewCommand(payload)
		if err != nil {
			t.Fatal(err)
		}
		now = now.Add(step)
		cmd.TimeUnixNano = now.UnixNano()
		out = append(out, cmd)
	}
	id := func(i int) string { return fmt.Sprintf("%08d-0000-7000-8000-000000000000", i) }
	add(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
	for i := 0; len(out) < n; i++ {
		add(&buildsv1.CreateBuild{
			Id: id(i), Ref: fmt.Sprint("r:", i), BaseRef: "base", Requester: "alice", RequestId: fmt.Sprint(i), TimeoutNanos: int64(time.Hour),
			Source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: "base"}}},
		})
		add(&buildsv1.NodeStarted{Name: fmt.Sprint("n", i%3), StoreId: "s", BootId: fmt.Sprint(i), Capacity: 1})
		if i%2 == 0 {
			add(&buildsv1.StopBuild{BuildId: id(i / 2), Reason: buildsv1.StopReason_STOP_REASON_REQUESTER, Requester: "alice"})
		}
		add(&buildsv1.PutCachedRef{Ref: &imagebuilderv1.CachedRef{Ref: fmt.Sprint("c:", i%64)}})
	}
	return out[:n]
}

// apply applies commands to a store. The first one has the given index.
func apply(t testing.TB, s *builds.Store, first uint64, cmds []*clusterv1.Command) {
	t.Helper()
	for i, cmd := range cmds {
		if err, ok := s.Apply(first+uint64(i), cmd).(error); ok {
			t.Fatal(err)
		}
	}
}

// wantCheckpoints checks that all checkpoints of got which want has too are equal, and that there
// are at least n of these.
func wantCheckpoints(t *testing.T, got, want *builds.Store, n int) {
	t.Helper()
	byIndex := map[uint64]*clusterv1.Checkpoint{}
	for _, c := range want.Checkpoints() {
		byIndex[c.Index] = c
	}
	for _, c := range got.Checkpoints() {
		if w := byIndex[c.Index]; w != nil {
			n--
			if !proto.Equal(c, w) {
				t.Errorf("a checkpoint is %v, want %v", c, w)
			}
		}
	}
	if n > 0 {
		t.Errorf("%d common checkpoints are missing", n)
	}
}

// Test_Hash_SameOnAllNodes compares the checkpoints of a node with those of nodes that received a
// snapshot of it at some index, and of one that applied the log again.
func Test_Hash_SameOnAllNodes(t *testing.T) {
	const blocks = 8
	cmds := commandsOf(t, blocks*builds.CheckpointCommands+1, time.Millisecond)
	first, again := builds.NewStore(), builds.NewStore()
	apply(t, again, 1, cmds)
	var applied uint64
	var late []*builds.Store
	for _, at := range []uint64{1, 100, builds.CheckpointCommands - 1, builds.CheckpointCommands, builds.CheckpointCommands + 1, 700} {
		apply(t, first, applied+1, cmds[applied:at])
		applied = at
		s := builds.NewStore()
		if err := s.Restore(bytes.NewReader(buildstest.Dump(t, first))); err != nil {
			t.Fatal(err)
		}
		if c := s.Checkpoints(); len(c) > 0 {
			t.Errorf("a restored state has checkpoints of former commands: %v", c)
		}
		apply(t, s, at+1, cmds[at:])
		late = append(late, s)
	}
	apply(t, first, applied+1, cmds[applied:])
	wantCheckpoints(t, again, first, blocks)
	for _, s := range late {
		wantCheckpoints(t, s, first, blocks-4)
	}
	checkHash(t, t, first)
}

// Test_Hash_FewCommands checks that time makes checkpoints if there are few commands.
func Test_Hash_FewCommands(t *testing.T) {
	s := builds.NewStore()
	apply(t, s, 1, commandsOf(t, 10, 30*time.Second))
	if c := s.Checkpoints(); len(c) < 4 {
		t.Errorf("10 commands in 5 minutes made the checkpoints %v", c)
	}
}

// Test_Hash_FindsEachTable changes one node's state by a command that the other does not have.
func Test_Hash_FindsEachTable(t *testing.T) {
	cmds := commandsOf(t, 2*builds.CheckpointCommands+1, time.Millisecond)
	settings := builds.DefaultSettings()
	settings.QueueTotal++
	at := builds.CheckpointCommands + 10
	for name, payload := range map[string]proto.Message{
		"build":          &buildsv1.StopBuild{BuildId: "00000060-0000-7000-8000-000000000000", Reason: buildsv1.StopReason_STOP_REASON_REQUESTER, Requester: "alice"},
		"new build":      &buildsv1.CreateBuild{Id: "9", Ref: "other", Requester: "alice", TimeoutNanos: 1},
		"cached ref":     &buildsv1.PutCachedRef{Ref: &imagebuilderv1.CachedRef{Ref: "other"}},
		"removed ref":    &buildsv1.DeleteCachedRef{Ref: "c:1"},
		"cache interval": &buildsv1.SetCacheInterval{IntervalNanos: 7},
		"node":           &buildsv1.DrainNode{Name: "n1", Drained: true},
		"settings":       &buildsv1.PutSettings{Settings: settings},
	} {
		t.Run(name, func(t *testing.T) {
			other, err := builds.NewCommand(payload)
			if err != nil {
				t.Fatal(err)
			}
			other.TimeUnixNano = cmds[at].TimeUnixNano
			none := &clusterv1.Command{Ignorable: true, TimeUnixNano: cmds[at].TimeUnixNano}
			a, b := builds.NewStore(), builds.NewStore()
			apply(t, a, 1, slices.Concat(cmds[:at], []*clusterv1.Command{none}, cmds[at+1:]))
			apply(t, b, 1, slices.Concat(cmds[:at], []*clusterv1.Command{other}, cmds[at+1:]))
			x, y := a.Checkpoints(), b.Checkpoints()
			if len(x) != 2 || len(y) != 2 || !proto.Equal(x[0], y[0]) || x[1].Hash == y[1].Hash || x[1].Index != y[1].Index {
				t.Errorf("the checkpoints are %v and %v", x, y)
			}
		})
	}
}

// Test_Hash_ChangeInPlace changes a record behind the back of the state. The next snapshot finds
// it.
func Test_Hash_ChangeInPlace(t *testing.T) {
	m := buildstest.NewMachine(t)
	id := m.Create("r:1").Build.Id
	m.Create("r:2", buildstest.WithRequest("1", "h"))
	before := m.Store.Hash()
	buildstest.Dump(t, m.Store)
	if m.Store.Hash() != before {
		t.Fatal("a snapshot has changed the hash of a correct state")
	}
	m.Store.Build(id).CountedAttempts++
	if m.Store.Hash() != before {
		t.Fatal("the test needs a change that the hash does not see")
	}
	buildstest.Dump(t, m.Store)
	if m.Store.Hash() == before {
		t.Error("the snapshot does not find the change")
	}
	checkHash(t, t, m.Store)
}

// Test_Hash_VersionOfProtobuf: the deterministic encoding may change with the module.
func Test_Hash_VersionOfProtobuf(t *testing.T) {
	raw, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if want := "google.golang.org/protobuf " + builds.ProtobufVersion + "\n"; !strings.Contains(string(raw), want) {
		t.Errorf("go.mod does not require %q: set protobufVersion to the version that it requires", want)
	}
}

// Benchmark_Hash applies the commands of builds from their creation to their end to two states, of
// which one is hashed. It reports the cost of the hash: for each command, as a part of the time of
// Apply, and as a part of one processor at 2,000 commands a second. In each block of commands each
// one changes another build, so that no two changes share a hash.
func Benchmark_Hash(b *testing.B) {
	const many = 2 * builds.CheckpointCommands
	var cmds []*clusterv1.Command
	m := buildstest.NewMachine(b)
	m.Log = func(c *clusterv1.Command) { cmds = append(cmds, c) }
	m.Must(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
	ids := make([]string, many)
	epochs := make([]uint64, many)
	for i := range ids {
		ids[i] = m.Create(fmt.Sprint("registry.example.com/workspaces:", i), buildstest.WithRequest(fmt.Sprint(i), "a hash of 32 bytes for a request")).Build.Id
	}
	for i, id := range ids {
		epochs[i] = m.Assign(id)
	}
	for _, p := range []imagebuilderv1.Phase{builds.Running, builds.Pushing} {
		for i, id := range ids {
			m.Report(id, epochs[i], p, "sha256:0123456789012345678901234567890123456789012345678901234567890123")
		}
	}
	for i, id := range ids {
		m.Finish(id, epochs[i], &buildsv1.FinishAttempt{Phase: builds.Succeeded, Digest: "sha256:0123456789012345678901234567890123456789012345678901234567890123", LogLength: 3, LogChecksum: "xxh64:1"})
	}
	m.WantPhase(ids[many-1], builds.Succeeded)
	run := func(hash bool) time.Duration {
		s := builds.NewState()
		if hash {
			s.Track()
		}
		runtime.GC()
		begin := time.Now()
		for i, cmd := range cmds {
			if _, _, err := s.Apply(uint64(i+1), cmd); err != nil {
				b.Fatal(err)
			}
		}
		return time.Since(begin)
	}
	var with, without time.Duration
	for range b.N {
		without += run(false)
		with += run(true)
	}
	n := float64(b.N * len(cmds))
	cost := float64(with-without) / n
	b.ReportMetric(float64(without)/n, "ns/command")
	b.ReportMetric(cost, "ns/hash")
	b.ReportMetric(100*cost/(float64(without)/n), "%/Apply")
	b.ReportMetric(100*cost*2000/1e9, "%/processor")
	b.ReportMetric(0, "ns/op")
}
