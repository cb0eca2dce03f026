package schedulertest

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
	"github.com/image-builder-ha/image-builder/builds/secrets"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// world is a state to decide on.
type World struct {
	T     testing.TB
	Store *builds.Store
	Index uint64
	Now   time.Time
}

func NewWorld(t testing.TB, capacities ...uint32) *World {
	w := &World{T: t, Store: builds.NewStore(), Now: time.Unix(1_700_000_000, 0)}
	for i, c := range capacities {
		w.Apply(&buildsv1.NodeStarted{Name: fmt.Sprintf("n%d", i), StoreId: "s", BootId: "b", Capacity: c, Runtimes: []string{"copy"}})
	}
	return w
}

// newKeyring answers keys of a test's own.
func NewKeyring(t testing.TB) *secrets.Keyring {
	t.Helper()
	file := filepath.Join(t.TempDir(), "keys.json")
	if err := secrets.NewKeyFile(file); err != nil {
		t.Fatal(err)
	}
	ring, err := secrets.LoadKeyring(file)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func (w *World) Apply(payload proto.Message) builds.Result {
	w.T.Helper()
	cmd, err := builds.NewCommand(payload)
	if err != nil {
		w.T.Fatal(err)
	}
	cmd.TimeUnixNano = w.Now.UnixNano()
	w.Index++
	res, ok := w.Store.Apply(w.Index, cmd).(builds.Result)
	if !ok || res.Err != nil {
		w.T.Fatalf("apply %T: %v", payload, res.Err)
	}
	return res
}

// ask creates a build of a requester and answers its id.
func (w *World) Ask(who string) string {
	w.T.Helper()
	return w.AskFor(who, time.Hour)
}

// askFor is ask with a time limit.
func (w *World) AskFor(who string, limit time.Duration) string {
	w.T.Helper()
	id := fmt.Sprintf("%s-%04d", who, w.Index)
	w.Apply(&buildsv1.CreateBuild{
		Id: fmt.Sprintf("%04d-%s", w.Index, who), Ref: "r:" + id, Requester: who, TimeoutNanos: int64(limit),
		Source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: "b"}}},
	})
	return id
}

// assignment returns what gives the oldest queued build to the node with the least name, copies of
// its log left out, except to the named nodes.
func (w *World) Assignment(except ...string) *buildsv1.AssignAttempt_Assignment {
	w.T.Helper()
	var a *buildsv1.AssignAttempt_Assignment
	w.Store.Read(func(st *builds.State) {
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
		w.T.Fatal("no build is queued, or no node is left")
	}
	return a
}

// ended makes a build that has ended now and whose log has so many bytes.
func (w *World) Ended(bytes int64) (id string) {
	w.T.Helper()
	w.Ask("a")
	a := w.Assignment()
	w.Apply(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{a}})
	w.Apply(&buildsv1.FinishAttempt{
		BuildId: a.BuildId, Attempt: 1, Epoch: a.Epoch, Phase: builds.Failed, Blame: builds.BlameUser, LogLength: bytes, LogChecksum: "sum",
	})
	return a.BuildId
}

// kept answers which of the builds have a log still.
func (w *World) Kept(ids []string) (kept []int) {
	for i, id := range ids {
		if w.Store.Build(id).Build.Attempts[0].Log.State == builds.LogSealed {
			kept = append(kept, i)
		}
	}
	return kept
}

// oneNode is the replicated log of a world: what is proposed is applied.
type OneNode struct {
	Mu sync.Mutex
	W  *World
}

func (r *OneNode) Propose(_ context.Context, cmd *clusterv1.Command) (uint64, any, error) {
	r.Mu.Lock()
	defer r.Mu.Unlock()
	cmd.TimeUnixNano = r.W.Now.UnixNano()
	r.W.Index++
	return r.W.Index, r.W.Store.Apply(r.W.Index, cmd), nil
}

func (r *OneNode) ReadIndex(context.Context) (uint64, error) { return 0, nil }
func (r *OneNode) WaitApplied(context.Context, uint64) error { return nil }
func (r *OneNode) Freshness() (uint64, bool, time.Duration)  { return 0, true, 0 }
func (r *OneNode) Name() string                              { return "copy" }
func (r *OneNode) Survives() bool                            { return false }
func (r *OneNode) Stop(context.Context, string) error        { return nil }
func (r *OneNode) List(context.Context) ([]string, error)    { return nil, nil }
func (r *OneNode) Run(context.Context, *workload.Workload, workload.Sink) (workload.Outcome, error) {
	return workload.Outcome{Repository: "r", Digest: "sha256:first"}, nil
}
