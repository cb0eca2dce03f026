package scheduler

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// world is a state to decide on.
type world struct {
	t     testing.TB
	store *builds.Store
	index uint64
	now   time.Time
}

func newWorld(t testing.TB, capacities ...uint32) *world {
	w := &world{t: t, store: builds.NewStore(), now: time.Unix(1_700_000_000, 0)}
	for i, c := range capacities {
		w.apply(&buildsv1.NodeStarted{Name: fmt.Sprintf("n%d", i), StoreId: "s", BootId: "b", Capacity: c, Runtimes: []string{"copy"}})
	}
	return w
}

// newKeyring answers keys of a test's own.
func newKeyring(t testing.TB) *builds.Keyring {
	t.Helper()
	file := filepath.Join(t.TempDir(), "keys.json")
	if err := builds.NewKeyFile(file); err != nil {
		t.Fatal(err)
	}
	ring, err := builds.LoadKeyring(file)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func (w *world) apply(payload proto.Message) builds.Result {
	w.t.Helper()
	cmd, err := builds.NewCommand(payload)
	if err != nil {
		w.t.Fatal(err)
	}
	cmd.TimeUnixNano = w.now.UnixNano()
	w.index++
	res, ok := w.store.Apply(w.index, cmd).(builds.Result)
	if !ok || res.Err != nil {
		w.t.Fatalf("apply %T: %v", payload, res.Err)
	}
	return res
}

// ask creates a build of a requester and answers its id.
func (w *world) ask(who string) string {
	w.t.Helper()
	return w.askFor(who, time.Hour)
}

// askFor is ask with a time limit.
func (w *world) askFor(who string, limit time.Duration) string {
	w.t.Helper()
	id := fmt.Sprintf("%s-%04d", who, w.index)
	w.apply(&buildsv1.CreateBuild{
		Id: fmt.Sprintf("%04d-%s", w.index, who), Ref: "r:" + id, Requester: who, TimeoutNanos: int64(limit),
		Source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: "b"}}},
	})
	return id
}

// assignment returns what gives the oldest queued build to the node with the least name, copies of
// its log left out, except to the named nodes.
func (w *world) assignment(except ...string) *buildsv1.AssignAttempt_Assignment {
	w.t.Helper()
	var a *buildsv1.AssignAttempt_Assignment
	w.store.Read(func(st *builds.State) {
		st.Queued(func(r *buildsv1.Record) bool {
			b := r.Build
			a = &buildsv1.AssignAttempt_Assignment{
				BuildId: b.Id, Attempt: uint32(len(b.Attempts) + 1), Epoch: builds.MaxEpoch(b) + 1, BuildVersion: b.Version, Runtime: "copy",
			}
			return false
		})
		st.Nodes(func(n *buildsv1.Node) bool {
			if a == nil || slices.Contains(except, n.Name) || n.Lost {
				return a != nil
			}
			a.Owner, a.OwnerStoreId = n.Name, n.StoreId
			return false
		})
	})
	if a.GetOwner() == "" {
		w.t.Fatal("no build is queued, or no node is left")
	}
	return a
}

// ended makes a build that has ended now and whose log has so many bytes.
func (w *world) ended(bytes int64) (id string) {
	w.t.Helper()
	w.ask("a")
	a := w.assignment()
	w.apply(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{a}})
	w.apply(&buildsv1.FinishAttempt{
		BuildId: a.BuildId, Attempt: 1, Epoch: a.Epoch, Phase: builds.Failed, Blame: builds.BlameUser, LogLength: bytes, LogChecksum: "sum",
	})
	return a.BuildId
}

// kept answers which of the builds have a log still.
func (w *world) kept(ids []string) (kept []int) {
	for i, id := range ids {
		if w.store.Build(id).Build.Attempts[0].Log.State == builds.LogSealed {
			kept = append(kept, i)
		}
	}
	return kept
}

// oneNode is the replicated log of a world: what is proposed is applied.
type oneNode struct {
	mu sync.Mutex
	w  *world
}

func (r *oneNode) Propose(_ context.Context, cmd *clusterv1.Command) (uint64, any, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	cmd.TimeUnixNano = r.w.now.UnixNano()
	r.w.index++
	return r.w.index, r.w.store.Apply(r.w.index, cmd), nil
}

func (r *oneNode) ReadIndex(context.Context) (uint64, error) { return 0, nil }
func (r *oneNode) WaitApplied(context.Context, uint64) error { return nil }
func (r *oneNode) Freshness() (uint64, bool, time.Duration)  { return 0, true, 0 }
func (r *oneNode) Name() string                              { return "copy" }
func (r *oneNode) Survives() bool                            { return false }
func (r *oneNode) Stop(context.Context, string) error        { return nil }
func (r *oneNode) List(context.Context) ([]string, error)    { return nil, nil }
func (r *oneNode) Run(context.Context, *workload.Workload, workload.Sink) (workload.Outcome, error) {
	return workload.Outcome{Repository: "r", Digest: "sha256:first"}, nil
}
