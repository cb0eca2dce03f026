package sim

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/cluster"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Schedules that chance finds too seldom, each for one rule. A scenario
// answers what it found wrong, or nil.
var scenarios = map[string]func(*world) error{
	"an old epoch is refused":                      oldEpoch,
	"a linearizable read asks a quorum":            staleLeaderReads,
	"the term of a deposed leader commits nothing": deposedTerm,
}

func Test_Scenarios(t *testing.T) {
	for name, f := range scenarios {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if err := runScenario(t, f); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func runScenario(t testing.TB, f func(*world) error) error {
	w := newWorld(t, 1, 3)
	for _, n := range w.nodes {
		n.start()
	}
	wait(context.Background(), 5*time.Second)
	err := f(w)
	w.hub.Heal()
	for _, n := range w.nodes {
		n.crash()
	}
	wait(context.Background(), 30*time.Second)
	return err
}

// depose cuts the leader off and makes another node lead at once, before the
// former one can know.
func (w *world) depose() (former, next *machine, err error) {
	former, others := w.leader()
	if former == nil {
		return nil, nil, errors.New("there is no leader")
	}
	next = others[0]
	w.hub.Part([]string{former.name}, []string{others[0].name, others[1].name})
	next.alive().net.Elect()
	for range 100 {
		wait(context.Background(), time.Millisecond)
		if next.alive().leads() {
			return former, next, nil
		}
	}
	return nil, nil, errors.New("no other node leads")
}

func buildRequest(ref, id string) *imagebuilderv1.BuildImageRequest {
	return &imagebuilderv1.BuildImageRequest{Source: source("docker.io/library/" + ref + ":1"), Auth: authOf("docker.io/library/" + ref + ":1"), Requester: "c", RequestId: id, Force: true}
}

// staleLeaderReads reads on a leader that does not know that it was deposed.
func staleLeaderReads(w *world) error {
	former, next, err := w.depose()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	res, err := next.alive().api().BuildImage(ctx, buildRequest("a", "1"))
	if err != nil {
		return fmt.Errorf("a build through the new leader: %w", err)
	}
	if !former.alive().leads() {
		return errors.New("the former leader knows already: the scenario shows nothing")
	}
	ctx, cancel = context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_, err = former.alive().api().BuildStatus(ctx, &imagebuilderv1.BuildStatusRequest{
		Build: &imagebuilderv1.BuildStatusRequest_Id{Id: res.Build.Id}, Linearizable: true,
	})
	if status.Code(err) == codes.NotFound || err == nil {
		return fmt.Errorf("a linearizable read of acknowledged build %s on the deposed leader %s: %v", res.Build.Id, former.name, err)
	}
	return nil
}

// deposedTerm commits with the term of a leader that was deposed.
func deposedTerm(w *world) error {
	former, _, err := w.depose()
	if err != nil {
		return err
	}
	term := former.alive().term.Load()
	w.hub.Heal()
	wait(context.Background(), 5*time.Second)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	cmd, err := builds.NewCommand(&buildsv1.Reap{})
	if err != nil {
		return err
	}
	if _, err := term.Propose(ctx, cmd); !errors.Is(err, cluster.ErrNoLeader) {
		return fmt.Errorf("a decision of the deposed leader %s was committed (%v)", former.name, err)
	}
	return nil
}

// oldEpoch ends an attempt in the name of an owner that lost it.
func oldEpoch(w *world) error {
	lead, _ := w.leader()
	r := lead.alive()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var id string
	var first *imagebuilderv1.Attempt
	latest := func() *imagebuilderv1.Attempt { return builds.LastAttempt(r.store().Build(id).GetBuild()) }
	for i := 0; first == nil; i++ { // a third of the workloads end at once: then the next build
		req := buildRequest(fmt.Sprint("a", i), fmt.Sprint(i))
		if runtimeOf(req.Source) != inNode { // the others outlive their owner
			continue
		}
		res, err := r.api().BuildImage(ctx, req)
		if err != nil {
			return err
		}
		id = res.Build.Id
		for first == nil && r.store().Build(id).GetBuild().GetEndedAt() == nil && wait(ctx, time.Millisecond) {
			if a := latest(); a.GetPhase() == builds.Running {
				first = a
			}
		}
		if ctx.Err() != nil {
			return errors.New("no build runs")
		}
	}
	var owner *buildsv1.Node
	r.store().Read(func(s *builds.State) { owner = s.Node(first.Owner) })
	raft := r.node.Raft()
	if _, _, err := builds.Propose(ctx, raft, &buildsv1.NodeLost{Name: owner.Name, StoreId: owner.StoreId, BootId: owner.BootId, Reason: "test"}); err != nil {
		return err
	}
	for latest().Number == first.Number {
		wait(ctx, time.Millisecond)
		if ctx.Err() != nil {
			return errors.New("there is no second attempt")
		}
	}
	_, _, err := builds.Propose(ctx, raft, &buildsv1.FinishAttempt{
		BuildId: id, Attempt: first.Number, Epoch: first.Epoch, Phase: builds.Failed, Blame: builds.BlameUser, Message: "the former owner says so",
	})
	if !errors.Is(err, builds.ErrFenced) {
		return fmt.Errorf("the former owner's end of attempt %d was taken (%v)", first.Number, err)
	}
	return nil
}
