//go:build faults

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/cluster"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_Restores_WithTheLeaderKilled restores a snapshot through a random node, again and again, and
// kills the leader at a random moment. Afterwards the states of all nodes have the same hash. They
// are the state of the snapshot if the command reports success, that of before if it reports that
// the state is unchanged, and one of both if it reports that the outcome is unknown. Builds that are
// acknowledged afterwards are kept. RESTORES=50 makes 50 restores.
func Test_Restores_WithTheLeaderKilled(t *testing.T) {
	c, refs := harness.StartClusterWithImages(t, 3, 5, harness.Config{
		// The logs are cut soon, so that nodes that were killed get the state in each way.
		"raft": map[string]any{"snapshotThreshold": 64, "trailingLogs": 32, "snapshotInterval": "1s", "segmentBytes": 4 << 20},
	})
	w := &restores{t: t, c: c, refs: refs, conns: map[*harness.Node]*grpc.ClientConn{}, outcomes: map[string]int{}}
	for _, n := range c.Nodes {
		w.conns[n] = n.OperatorConn()
	}
	w.await()
	w.create(5)
	w.file = filepath.Join(t.TempDir(), "snapshot")
	count := testkit.InSoak(200, 3)
	if s := os.Getenv("RESTORES"); s != "" {
		var err error
		if count, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	for i := range count {
		w.one(i%10 == 0) // without a kill, which shows how long a restore takes
		if t.Failed() {
			t.Fatalf("after %d restores", i+1)
		}
	}
	states := w.states()
	for _, id := range w.acked {
		if !slices.Contains(states[0].builds, id) {
			t.Errorf("the acknowledged build %s is lost", id)
		}
	}
	t.Logf("%d restores: %v; %d builds", count, w.outcomes, len(states[0].builds))
	for _, n := range c.Nodes {
		if strings.Contains(n.Log(), "differs from that of the majority") || strings.Contains(n.Log(), "no majority shows") {
			t.Errorf("the log of %s reports a divergence", n.Name)
		}
	}
}

// restores is a cluster whose state is restored.
type restores struct {
	t        *testing.T
	c        *harness.Cluster
	refs     []string
	file     string        // the snapshot
	took     time.Duration // time of a restore without a fault
	acked    []string      // ids of builds that must be in the state
	conns    map[*harness.Node]*grpc.ClientConn
	outcomes map[string]int
}

// Outcomes of a restore.
const (
	restored  = "restored"
	unchanged = "unchanged"
	unknown   = "unknown"
)

// one saves a snapshot, creates builds, restores the snapshot while the leader is killed, and checks
// the state.
func (w *restores) one(calm bool) {
	w.save()
	saved := len(w.acked)
	w.create(2)
	through := w.c.Nodes[rand.IntN(len(w.c.Nodes))]
	lead := w.c.Leader()
	result := make(chan string, 1)
	begin := time.Now()
	go func() {
		_, stderr, status := harness.CLI(w.t, through.Socket(), "snapshot", "restore", w.file)
		if calm {
			w.took = time.Since(begin)
		}
		if status == 0 {
			result <- restored
			return
		}
		result <- stderr
	}()
	stop := w.load()
	if !calm {
		<-time.After(rand.N(w.took * 5 / 4)) // the fault: at a random moment
		lead.Kill()
	}
	text := <-result
	stop()
	outcome := w.outcome(text)
	if !calm {
		<-time.After(rand.N(2 * time.Second)) // the others go on
		lead.Launch()
	}
	w.await()
	states := w.states()
	late := w.acked[saved:]
	has := 0
	for _, id := range late {
		if slices.Contains(states[0].builds, id) {
			has++
		}
	}
	switch {
	case has != 0 && has != len(late):
		w.t.Errorf("%d of %d builds of after the snapshot are in the state", has, len(late))
	case outcome == restored && has > 0:
		w.t.Error("the restore is reported as done, and the state is that of before")
	case outcome == unchanged && has == 0:
		w.t.Errorf("the state was replaced, but the command says %q", text)
	case outcome == unknown && has == 0:
		outcome += ": restored"
	case outcome == unknown:
		outcome += ": unchanged"
	}
	if calm {
		if outcome != restored {
			w.t.Errorf("without a fault: %s", text)
		}
		outcome += " without a fault"
	}
	w.outcomes[outcome]++
	if has == 0 {
		w.acked = w.acked[:saved]
	}
	for _, id := range w.acked {
		if !slices.Contains(states[0].builds, id) {
			w.t.Errorf("the state lacks the acknowledged build %s (%s)", id, outcome)
		}
	}
	w.create(2)
}

// outcome returns what the text of a failed command says.
func (w *restores) outcome(text string) string {
	switch {
	case text == restored, strings.Contains(text, "the snapshot is restored, but"):
		return restored
	case strings.Contains(text, cluster.ErrNotRestored.Error()), strings.Contains(text, "is unreachable"):
		return unchanged
	case strings.Contains(text, cluster.ErrOutcomeUnknown.Error()):
		return unknown
	}
	w.t.Errorf("the command does not tell the outcome: %q", text)
	return unknown
}

// load proposes commands on all nodes until the returned function is called.
func (w *restores) load() (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	var all sync.WaitGroup
	for _, n := range w.c.Nodes {
		client := imagebuilderv1.NewImageBuilderClient(w.conns[n])
		all.Go(func() {
			for ctx.Err() == nil {
				if _, err := client.SetCacheInterval(ctx, &imagebuilderv1.SetCacheIntervalRequest{Interval: durationpb.New(time.Hour)}); err != nil {
					<-time.After(10 * time.Millisecond) // the node does not run, or there is an election
				}
			}
		})
	}
	return func() { cancel(); all.Wait() }
}

// await waits until all nodes are members that take part.
func (w *restores) await() {
	for _, n := range w.c.Nodes {
		n.AwaitReady()
	}
	testkit.Eventually(w.t, time.Minute, "all nodes follow", func() bool {
		ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Second)
		defer cancel()
		r, err := imagebuilderv1.NewClusterClient(w.conns[w.c.Nodes[0]]).Members(ctx, &imagebuilderv1.MembersRequest{})
		return err == nil && harness.Voters(r) == 3 && r.FeatureLevel >= builds.RestoreLevel && r.Divergence == "" &&
			!slices.ContainsFunc(r.Members, func(m *imagebuilderv1.ClusterMember) bool { return m.State != "alive" })
	})
}

// create creates builds and waits for their ends.
func (w *restores) create(count int) {
	w.t.Helper()
	for range count {
		n := w.c.Nodes[rand.IntN(len(w.c.Nodes))]
		req := &imagebuilderv1.BuildImageRequest{
			RequestId: uuid.NewString(), Source: harness.RefSource(w.refs[rand.IntN(len(w.refs))]), Force: true, Requester: "r",
		}
		ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
		defer cancel()
		res, err := harness.Persist(ctx, func(ctx context.Context) (*imagebuilderv1.BuildImageResponse, error) {
			return n.Native.BuildImage(ctx, req)
		})
		if err != nil {
			w.t.Fatalf("create a build on %s: %v", n.Name, err)
		}
		w.acked = append(w.acked, res.Build.Id)
		n.Wait(w.t, ctx, res.Build.Id)
	}
}

// save saves a snapshot.
func (w *restores) save() {
	w.t.Helper()
	raw, err := saved(w.t.Context(), w.conns[w.c.Nodes[rand.IntN(len(w.c.Nodes))]])
	if err == nil {
		err = os.WriteFile(w.file, raw, 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// saved returns a snapshot of the state of a node.
func saved(ctx context.Context, n grpc.ClientConnInterface) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return harness.Persist(ctx, func(ctx context.Context) ([]byte, error) {
		stream, err := imagebuilderv1.NewClusterClient(n).SaveSnapshot(ctx, &imagebuilderv1.SaveSnapshotRequest{})
		var b bytes.Buffer
		for err == nil {
			var m *imagebuilderv1.SaveSnapshotResponse
			if m, err = stream.Recv(); err == nil {
				b.Write(m.Chunk)
			}
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return b.Bytes(), err
	})
}

// replicatedState is the state of one node.
type replicatedState struct {
	index  uint64
	hash   string // with its version
	builds []string
}

// states returns the states of all nodes at one index. Their hashes must be equal.
func (w *restores) states() []replicatedState {
	w.t.Helper()
	states := make([]replicatedState, len(w.c.Nodes))
	testkit.Eventually(w.t, time.Minute, "all nodes have a state of the same index", func() bool {
		raw, errs := make([][]byte, len(states)), make([]error, len(states))
		var all sync.WaitGroup
		for i, n := range w.c.Nodes {
			all.Go(func() { raw[i], errs[i] = saved(w.t.Context(), w.conns[n]) })
		}
		all.Wait()
		if err := errors.Join(errs...); err != nil {
			w.t.Fatalf("save the states: %v", err)
		}
		for i := range raw {
			states[i] = w.stateOf(raw[i])
		}
		return !slices.ContainsFunc(states, func(s replicatedState) bool { return s.index != states[0].index })
	})
	for i, s := range states {
		if s.hash != states[0].hash {
			w.t.Errorf("at index %d the hash of the state of %s is %s, that of %s is %s", s.index, w.c.Nodes[i].Name, s.hash, w.c.Nodes[0].Name, states[0].hash)
		}
	}
	return states
}

// stateOf reads a snapshot, and takes the hash of the state as nodes do: at a checkpoint.
func (w *restores) stateOf(raw []byte) (s replicatedState) {
	store := builds.NewStore()
	index, err := cluster.InspectSnapshot(bytes.NewReader(raw), store.Restore)
	if err != nil {
		w.t.Fatal(err)
	}
	s.index = index
	store.Read(func(st *builds.State) {
		st.All(func(r *buildsv1.Record) bool { s.builds = append(s.builds, r.Build.Id); return true })
	})
	for range 2 { // the first checkpoint after a restore is left out
		index += 1 << 20
		if err, failed := store.Apply(index, &clusterv1.Command{Ignorable: true}).(error); failed {
			w.t.Fatal(err)
		}
	}
	for _, c := range store.Checkpoints() {
		s.hash = fmt.Sprintf("%s %016x", c.Version, c.Hash)
	}
	return s
}
