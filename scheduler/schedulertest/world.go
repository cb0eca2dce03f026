package schedulertest

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/secrets"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// World is a replicated state that a test changes by commands.
type World struct {
	T     testing.TB
	Store *builds.Store
	// Index is the index of the last command.
	Index uint64
	// Now is the time of the next command.
	Now time.Time
}

// NewWorld returns a state with one node for each capacity. The nodes are n0, n1 and so on, with
// the store id "s", the boot id "b" and the runtime "copy".
func NewWorld(t testing.TB, capacities ...uint32) *World {
	w := &World{T: t, Store: builds.NewStore(), Now: time.Unix(1_700_000_000, 0)}
	for i, c := range capacities {
		w.Apply(&buildsv1.NodeStarted{Name: fmt.Sprintf("n%d", i), StoreId: "s", BootId: "b", Capacity: c, Runtimes: []string{"copy"}})
	}
	return w
}

// NewKeyring returns a keyring with a new key.
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

// Apply applies a command. It fails the test if the state refuses the command.
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

// Create creates a build with a timeout of an hour.
func (w *World) Create(requester string) {
	w.T.Helper()
	w.CreateFor(requester, time.Hour)
}

// CreateFor creates a build with a timeout.
func (w *World) CreateFor(requester string, timeout time.Duration) {
	w.T.Helper()
	id := fmt.Sprintf("%04d-%s", w.Index, requester)
	w.Apply(&buildsv1.CreateBuild{
		Id: id, Ref: "r:" + id, Requester: requester, TimeoutNanos: int64(timeout),
		Source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: "b"}}},
	})
}

// Assignment returns the assignment of the oldest queued build to the first node by name that is
// not lost and not in except. The assignment names no copies of the log.
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

// Assign applies assignments.
func (w *World) Assign(a ...*buildsv1.AssignAttempt_Assignment) {
	w.T.Helper()
	w.Apply(&buildsv1.AssignAttempt{Assignments: a})
}

// CreateEnded creates a build that has ended, with a sealed log of the given length. It returns its
// id.
func (w *World) CreateEnded(logBytes int64) (id string) {
	w.T.Helper()
	w.Create("a")
	a := w.Assignment()
	w.Assign(a)
	w.Apply(&buildsv1.FinishAttempt{
		BuildId: a.BuildId, Attempt: 1, Epoch: a.Epoch, Phase: builds.Failed, Blame: builds.BlameUser, LogLength: logBytes, LogChecksum: "sum",
	})
	return a.BuildId
}

// WithLog returns the indexes of the builds that still have a log.
func (w *World) WithLog(ids []string) (kept []int) {
	for i, id := range ids {
		if w.Store.Build(id).Build.Attempts[0].Log.State == builds.LogSealed {
			kept = append(kept, i)
		}
	}
	return kept
}
