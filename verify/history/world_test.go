package history_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// world is a cluster in one process: a log, nodes that apply it with the real builds.Store at
// different times, a registry, and a system that executes the builds. The first node is the leader
// and has applied the whole log.
type world struct {
	t     testing.TB
	rng   *rand.Rand
	log   []*clusterv1.Command
	nodes []*node
	now   time.Time
	// images are the digests in the registry by ref.
	images map[string]string
	// late are proposals whose clients no longer wait for them.
	late []proto.Message
	// active are the builds that may not have ended.
	active []string
	made   int
	boots  int
}

type node struct {
	store   *builds.Store
	applied int
}

func newWorld(t testing.TB, seed uint64) *world {
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1_700_000_000, 0), images: map[string]string{}}
	for range 3 {
		w.nodes = append(w.nodes, &node{store: builds.NewStore()})
	}
	w.propose(w.boot())
	return w
}

// boot returns the command by which a new process of the node registers.
func (w *world) boot() *buildsv1.NodeStarted {
	w.boots++
	return &buildsv1.NodeStarted{Name: "n1", StoreId: "s1", BootId: fmt.Sprint(w.boots), Capacity: 1000, Runtimes: []string{"copy"}}
}

// chance returns true in one of n cases.
func (w *world) chance(n int) bool { return w.rng.IntN(n) == 0 }

func (w *world) leader() *node { return w.nodes[0] }

func (w *world) node() *node { return w.nodes[w.rng.IntN(len(w.nodes))] }

// catchUp applies the log on a node up to an index.
func (w *world) catchUp(n *node, index int) any {
	var out any
	for n.applied < min(index, len(w.log)) {
		out = n.store.Apply(uint64(n.applied+1), w.log[n.applied])
		n.applied++
	}
	return out
}

// propose commits a command. The leader applies it immediately.
func (w *world) propose(payload proto.Message) builds.Result {
	w.t.Helper()
	if c, ok := payload.(*buildsv1.CreateBuild); ok {
		w.made++
		c = proto.Clone(c).(*buildsv1.CreateBuild)
		c.Id = fmt.Sprintf("build-%06d", w.made)
		payload = c
	}
	cmd, err := builds.NewCommand(payload)
	if err != nil {
		w.t.Fatal(err)
	}
	w.now = w.now.Add(time.Duration(w.rng.IntN(3)) * 500 * time.Millisecond)
	cmd.TimeUnixNano = w.now.UnixNano()
	w.log = append(w.log, cmd)
	res, ok := w.catchUp(w.leader(), len(w.log)).(builds.Result)
	if !ok {
		w.t.Fatalf("applying %T is fatal", payload)
	}
	if _, create := payload.(*buildsv1.CreateBuild); create && res.Err == nil && !res.Attached && !res.Repeated {
		w.active = append(w.active, res.Build.Id)
	}
	return res
}

// step performs one random event that no client requested.
func (w *world) step() {
	switch w.rng.IntN(8) {
	case 0:
		n := w.node()
		w.catchUp(n, n.applied+1+w.rng.IntN(20))
	case 1:
		if len(w.late) > 0 {
			i := w.rng.IntN(len(w.late))
			payload := w.late[i]
			w.late = append(w.late[:i], w.late[i+1:]...)
			w.propose(payload)
		}
	case 2:
		if w.chance(50) {
			w.propose(w.boot())
		}
	default:
		w.work()
	}
}

// work advances one build.
func (w *world) work() {
	if len(w.active) == 0 {
		return
	}
	i := w.rng.IntN(len(w.active))
	r := w.leader().store.Build(w.active[i])
	b := r.Build
	switch a := builds.LastAttempt(b); {
	case builds.Terminal(b.Phase):
		w.active = append(w.active[:i], w.active[i+1:]...)
	case !w.now.Before(b.Deadline.AsTime()) && w.chance(2):
		w.propose(&buildsv1.StopBuild{BuildId: b.Id, Reason: buildsv1.StopReason_STOP_REASON_DEADLINE})
	case b.Phase == builds.Queued && !r.Successor:
		w.propose(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{{
			BuildId: b.Id, Attempt: uint32(len(b.Attempts) + 1), Owner: "n1", OwnerStoreId: "s1",
			Epoch: builds.MaxEpoch(b) + 1, BuildVersion: b.Version, Runtime: "copy",
		}}})
	case builds.Live(b.Phase):
		w.workOn(r, a)
	}
}

// workOn advances the live attempt of a build.
func (w *world) workOn(r *buildsv1.Record, a *imagebuilderv1.Attempt) {
	b := r.Build
	finish := &buildsv1.FinishAttempt{BuildId: b.Id, Attempt: a.Number, Epoch: a.Epoch}
	switch {
	case r.StopReason != 0 && w.chance(3):
		finish.Phase = builds.Cancelled
		w.propose(finish)
	case w.chance(10):
		finish.Phase, finish.Blame = builds.Failed, builds.BlameInfrastructure
		w.propose(finish)
	case w.chance(10):
		finish.Phase, finish.Blame = builds.Failed, builds.BlameUser
		w.propose(finish)
	case b.Phase == builds.Pushing && w.chance(2):
		w.images[b.Ref] = b.Digest
		finish.Phase, finish.Digest = builds.Succeeded, b.Digest
		w.propose(finish)
	case b.Phase != builds.Pushing:
		report := &buildsv1.ReportPhase{BuildId: b.Id, Attempt: a.Number, Epoch: a.Epoch, Phase: b.Phase + 1}
		if report.Phase == builds.Pushing {
			if report.Digest = b.Digest; b.Digest == "" {
				report.Digest = "sha256:" + b.Id
			}
		}
		w.propose(report)
	}
}
