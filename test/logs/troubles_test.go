//go:build faults

package logs

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/disks"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// trouble is a fault of one node that does not end the cluster. begin returns the function that ends
// the fault. votes reports whether the node can write its replicated log meanwhile.
type trouble struct {
	votes bool
	begin func(w *troubled, n *harness.Node) (end func())
}

var troubles = map[string]trouble{
	"drained": {true, func(w *troubled, n *harness.Node) func() {
		w.drain(n, false)
		return func() { w.drain(n, true) }
	}},
	"killed": {false, func(_ *troubled, n *harness.Node) func() {
		n.Kill()
		return func() {
			n.Launch()
			n.AwaitAnswer()
		}
	}},
	"log disk frozen": {true, func(w *troubled, n *harness.Node) func() {
		w.logs[n].Freeze()
		return w.logs[n].Thaw
	}},
	"raft disk frozen": {false, func(w *troubled, n *harness.Node) func() {
		w.raft[n].Freeze()
		return w.raft[n].Thaw
	}},
	"log disk full": {true, func(w *troubled, n *harness.Node) func() {
		fillUp(w.t, w.logs[n])
		return w.logs[n].Release
	}},
}

// Test_Logs_TroublesInPairs: two of three nodes have a fault while builds wait, start, run and are
// published. Every build ends in time after its deadline or its cancel, counted from the moment at
// which a majority of the nodes can write its replicated log. No shown byte changes, and no reader
// hangs. With SOAK it runs all pairs of faults, each on the leader and on a follower.
func Test_Logs_TroublesInPairs(t *testing.T) {
	names := []string{"drained", "killed", "log disk frozen", "raft disk frozen", "log disk full"}
	for i, a := range names {
		for k, b := range names {
			if !testkit.Soak() && (a != "log disk frozen" || b != "drained") {
				continue
			}
			t.Run(strings.ReplaceAll(a+" leader, "+b+" follower", " ", "-"), func(t *testing.T) {
				w := newTroubled(t, (i+k)%2 == 1)
				w.pair(troubles[a], troubles[b])
			})
		}
	}
}

// troubled is a cluster whose nodes have disks of their own for the replicated log and for the logs of
// builds. Its builds run until the file go-ID exists in dir. Then their images are copied, and wait to
// be tagged.
type troubled struct {
	*logCluster
	raft, logs map[*harness.Node]*disks.Disk
	refs       []string
	healthy    *harness.Node // has no fault

	tested []*testedBuild
}

// testedBuild is a build that must end in time.
type testedBuild struct {
	id, kind string
	cancel   bool
	due      time.Time // when its deadline is, or when it was cancelled
	ended    time.Time
	late     bool
	readers  []*reader
}

func newTroubled(t *testing.T, survives bool) *troubled {
	t.Helper()
	const script = `name=${PWD##*/}; id=${name#ib-}; id=${id%-*}; i=0
while [ -d "../$name" ] && [ ! -e "../go-$id" ]; do i=$((i+1)); echo "line $i of $name"; sleep 0.1; done`
	reg := registrytest.Start(t, registrytest.Options{Quiet: true})
	gate := registrytest.NewProxy(t, reg)
	w := &troubled{logCluster: &logCluster{t: t, dir: t.TempDir(), reg: reg}, raft: map[*harness.Node]*disks.Disk{}, logs: map[*harness.Node]*disks.Disk{}}
	for _, ref := range harness.PushImages(t, reg, 20) {
		w.refs = append(w.refs, strings.Replace(ref, reg.Addr, gate.Addr, 1))
	}
	tags := func(r *http.Request) bool { return !strings.Contains(r.URL.Path, "sha256:") }
	ended := make(chan struct{})
	t.Cleanup(func() { close(ended) })
	gate.On(registrytest.Method(http.MethodPut, func(r *http.Request) bool { return registrytest.Manifests(r) && tags(r) }), -1,
		func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
			select {
			case <-r.Context().Done():
			case <-ended:
			}
			panic(http.ErrAbortHandler)
		})
	t.Setenv("IMAGE_BUILDER_TEST_RUNTIME", w.dir)
	t.Setenv("IMAGE_BUILDER_TEST_SCRIPT", script)
	t.Setenv("IMAGE_BUILDER_TEST_SURVIVES", map[bool]string{true: "1"}[survives])
	w.Cluster = harness.NewCluster(t, 3, gate.Addr, harness.Config{
		"log":    map[string]any{"level": "info"},
		"raft":   map[string]any{"segmentBytes": 4 << 20},
		"builds": map[string]any{"runningPerNode": 4, "uncountedAttempts": 1000, "retryBackoff": "100ms", "retryBackoffMax": "1s"},
		// A log is not given up while its nodes are away.
		"logs": map[string]any{"fenceTimeout": "10m"},
	})
	for _, n := range w.Nodes {
		data := filepath.Join(n.Dir, "data")
		w.raft[n] = disks.NewAt(t, 128<<20, data)
		w.logs[n] = disks.NewAt(t, 64<<20, filepath.Join(data, "logs"))
		n.Launch()
	}
	for _, n := range w.Nodes {
		n.AwaitReady()
	}
	harness.AwaitMembers(t, w.Cluster, "the feature level is raised", func(r *imagebuilderv1.MembersResponse) bool { return r.FeatureLevel >= 5 })
	return w
}

// pair runs builds while the leader and a follower have faults.
func (w *troubled) pair(ofLeader, ofFollower trouble) {
	var (
		frozenFor = time.Duration(testkit.InSoak(60, 20)) * time.Second
		endLimit  = time.Duration(testkit.InSoak(15, 30)) * time.Second // the claim, and for a busy machine
		timeout   = time.Duration(testkit.InSoak(40, 12)) * time.Second
	)
	t, ctx := w.t, testkit.Context(w.t, 5*time.Minute)
	lead := w.Leader()
	others := w.Others(lead)
	w.healthy = others[1]

	pushing := w.request("pushing", 3, timeout, false)
	for _, b := range pushing {
		if err := os.WriteFile(filepath.Join(w.dir, "go-"+b.id), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.awaitPhase(pushing, imagebuilderv1.Phase_PHASE_PUSHING)
	running := append(w.request("running", 3, timeout, false), w.request("running", 3, time.Hour, true)...)
	w.awaitPhase(running, imagebuilderv1.Phase_PHASE_RUNNING)
	release := w.holdStarts()
	starting := append(w.request("starting", 1, timeout, false), w.request("starting", 2, time.Hour, true)...)
	w.awaitPhase(starting, imagebuilderv1.Phase_PHASE_STARTING)
	queued := append(w.request("queued", 1, timeout, false), w.request("queued", 1, time.Hour, true)...)
	w.awaitPhase(queued, imagebuilderv1.Phase_PHASE_QUEUED)
	reading, stop := context.WithCancel(ctx)
	var waits []func()
	defer func() {
		stop()
		for _, wait := range waits {
			wait()
		}
	}()
	for _, b := range w.tested {
		var wait func()
		b.readers, wait = w.startReaders(reading, b.id, testkit.InSoak(3, 2))
		waits = append(waits, wait)
	}
	for _, b := range running {
		w.awaitBytes(b.readers, 1)
	}

	endSecond := ofFollower.begin(w, others[0]) // first, because a drain needs a leader
	endFirst := ofLeader.begin(w, lead)
	begun := time.Now()
	release()
	var cancels sync.WaitGroup
	for _, b := range w.tested {
		if b.cancel {
			b.due = begun
			cancels.Go(func() { w.cancelUntilAccepted(reading, b.id) })
		}
	}
	waits = append(waits, cancels.Wait)
	majority := begun // when a majority can write its replicated log
	if !ofLeader.votes && !ofFollower.votes {
		majority = time.Time{}
	}
	for healed := false; ; <-time.After(100 * time.Millisecond) {
		if !healed && time.Since(begun) >= frozenFor {
			endFirst()
			endSecond()
			healed = true
			if majority.IsZero() {
				majority = time.Now()
			}
		}
		left := w.look(ctx, majority, endLimit)
		if healed && (left == 0 || time.Since(majority) > frozenFor+timeout+2*endLimit) {
			break
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, wait := range waits {
			wait()
		}
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Error("readers hang a minute after the end of all faults and builds")
		stop()
		<-done
	}
	w.report(ctx, majority)
}

// request requests n builds with deadlines.
func (w *troubled) request(kind string, n int, timeout time.Duration, cancel bool) (out []*testedBuild) {
	w.t.Helper()
	for range n {
		res, err := w.healthy.Native.BuildImage(w.t.Context(), &imagebuilderv1.BuildImageRequest{
			RequestId: uuid.NewString(), Requester: "r", Source: harness.RefSource(w.refs[len(w.tested)]), Timeout: durationpb.New(timeout),
		})
		if err != nil {
			w.t.Fatal(err)
		}
		b := &testedBuild{id: res.Build.Id, kind: kind, cancel: cancel, due: res.Build.Deadline.AsTime()}
		w.tested = append(w.tested, b)
		out = append(out, b)
	}
	return out
}

// awaitPhase waits until all of the builds are in a phase, or later. On a slow machine, their
// deadlines may pass before.
func (w *troubled) awaitPhase(all []*testedBuild, phase imagebuilderv1.Phase) {
	w.t.Helper()
	for _, b := range all {
		got := w.await(w.t.Context(), b.id, func(b *imagebuilderv1.Build) bool { return b.Phase >= phase })
		if got.Phase != phase {
			w.t.Logf("%s build %s is %s already", b.kind, b.id, got.Phase)
			if testkit.Soak() {
				w.t.Error("a build is in a later phase than it should be: this shows less")
			}
		}
	}
}

// holdStarts holds the start of all workloads from now on, until release is called.
func (w *troubled) holdStarts() (release func()) {
	w.t.Helper()
	path := filepath.Join(w.dir, "starts")
	if err := errors.Join(os.Remove(path), syscall.Mkfifo(path, 0o600)); err != nil {
		w.t.Fatal(err)
	}
	open := func() {
		f, err := os.OpenFile(path, os.O_RDWR, 0) // with a reader, the nodes can open it
		if err != nil {
			w.t.Error(err)
			return
		}
		w.t.Cleanup(func() { _ = f.Close() })
	}
	once := sync.OnceFunc(open)
	w.t.Cleanup(once)
	return once
}

// drain drains a node or ends that, through the healthy node.
func (w *troubled) drain(n *harness.Node, undrain bool) {
	w.t.Helper()
	operator := w.healthy.Operator()
	_, err := harness.Persist(testkit.Context(w.t, 30*time.Second), func(ctx context.Context) (*imagebuilderv1.DrainNodeResponse, error) {
		return operator.DrainNode(ctx, &imagebuilderv1.DrainNodeRequest{Node: n.Name, Undrain: undrain})
	})
	if err != nil {
		w.t.Errorf("drain %s: %v", n.Name, err)
	}
}

// cancelUntilAccepted cancels a build through the healthy node, until the service has accepted it.
func (w *troubled) cancelUntilAccepted(ctx context.Context, id string) {
	for ctx.Err() == nil {
		call, done := context.WithTimeout(ctx, 3*time.Second)
		_, err := w.healthy.Native.CancelBuild(call, &imagebuilderv1.CancelBuildRequest{Id: id, Requester: "r"})
		done()
		if c := status.Code(err); c == codes.OK || c == codes.FailedPrecondition {
			return
		}
		<-time.After(50 * time.Millisecond)
	}
}

// look looks at the builds that have not ended, through the healthy node, and returns their number. It
// reports those that are late. majority is zero while no majority can write.
func (w *troubled) look(ctx context.Context, majority time.Time, limit time.Duration) (left int) {
	w.t.Helper()
	for _, b := range w.tested {
		if !b.ended.IsZero() {
			continue
		}
		got := w.status(ctx, b.id)
		if got.GetEndedAt() != nil {
			b.ended = time.Now()
			continue
		}
		left++
		due := b.due
		if due.Before(majority) {
			due = majority
		}
		if late := time.Since(due); !majority.IsZero() && late > limit && !b.late {
			b.late = true
			last := &imagebuilderv1.Attempt{}
			if n := len(got.GetAttempts()); n > 0 {
				last = got.Attempts[n-1]
			}
			w.t.Errorf("%s build %s is %s %s after it was due (cancelled: %t): attempt %d is on %s, with the log %v", b.kind, b.id, got.GetPhase(), late.Round(time.Millisecond), b.cancel, last.Number, last.Owner, last.Log)
		}
	}
	return left
}

// status returns a build as the healthy node knows it, nil if there was no response in time.
func (w *troubled) status(ctx context.Context, id string) *imagebuilderv1.Build {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	res, _ := w.healthy.Native.BuildStatus(ctx, &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Id{Id: id}})
	return res.GetBuild()
}

// report checks the logs of all builds, and logs how long the builds took to end.
func (w *troubled) report(ctx context.Context, majority time.Time) {
	w.t.Helper()
	var took []time.Duration
	phases := map[string]int{}
	for _, b := range w.tested {
		due := b.due
		if due.Before(majority) {
			due = majority
		}
		if b.ended.IsZero() {
			w.t.Errorf("%s build %s does not end", b.kind, b.id)
			continue
		}
		took = append(took, b.ended.Sub(due))
		phases[fmt.Sprintf("%s: %s", b.kind, w.checkBytes(ctx, b.id, b.readers).Phase)]++
	}
	for _, n := range w.Nodes {
		if !n.Alive() {
			w.t.Errorf("the process of %s has ended", n.Name)
		}
	}
	if len(took) > 0 {
		w.t.Logf("builds ended %s after they were due at most; %v", slices.Max(took).Round(time.Millisecond), phases)
	}
}

// fillUp fills a disk: quickly except for some blocks, and then in steps of one block until nothing is
// left.
func fillUp(t testing.TB, d *disks.Disk) {
	t.Helper()
	if err := d.Fill(16 * disks.Block); err != nil {
		t.Errorf("fill %s: %v", d.Path, err)
	}
	for full := 0; full < 50; {
		switch err := d.FillBlock(); {
		case errors.Is(err, syscall.ENOSPC):
			full++ // the node may still free a block
			<-time.After(time.Millisecond)
		case err != nil:
			t.Errorf("fill %s: %v", d.Path, err)
			return
		}
	}
}
