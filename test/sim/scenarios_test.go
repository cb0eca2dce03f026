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

// scenarios are schedules that random faults produce too rarely, each for one rule. A scenario
// returns an error if the service breaks the rule.
var scenarios = map[string]func(*world) error{
	"an old epoch is refused":                      oldEpoch,
	"a linearizable read asks a quorum":            staleLeaderReads,
	"a linearizable read counts no old answers":    oldAnswers,
	"a leader that hears no node refuses":          deafLeader,
	"the term of a deposed leader commits nothing": deposedTerm,
	"secrets outlive leaders":                      secretsOutliveLeaders,
	"a node that reaches no leader refuses":        unreachedLeader,
	"a node whose log disk hangs is lost":          hungLogDisk,
	"a node whose Raft disk hangs is lost":         hungRaftDisk,
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

// runScenario runs a scenario on three nodes.
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

// depose separates the leader from the other nodes and lets one of these lead at once, while the
// former leader still believes that it leads.
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

// buildRequest returns a request for a build that no other request joins.
func buildRequest(ref, id string) *imagebuilderv1.BuildImageRequest {
	return &imagebuilderv1.BuildImageRequest{Source: source("docker.io/library/" + ref + ":1"), Auth: authOf("docker.io/library/" + ref + ":1"), Requester: "c", RequestId: id, Force: true}
}

// staleLeaderReads reads linearizably on a deposed leader that still believes that it leads.
func staleLeaderReads(w *world) error {
	former, next, err := w.depose()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	res, err := next.alive().api().BuildImage(ctx, buildRequest("a", "1"))
	if err != nil {
		return fmt.Errorf("create a build through the new leader: %w", err)
	}
	if !former.alive().leads() {
		return errors.New("the former leader knows that it was deposed: the scenario proves nothing")
	}
	ctx, cancel = context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_, err = former.alive().api().BuildStatus(ctx, &imagebuilderv1.BuildStatusRequest{
		Build: &imagebuilderv1.BuildStatusRequest_Id{Id: res.Build.Id}, Linearizable: true,
	})
	if status.Code(err) == codes.NotFound || err == nil {
		return fmt.Errorf("a linearizable read of the acknowledged build %s on the deposed leader %s: %v", res.Build.Id, former.name, err)
	}
	return nil
}

// deposedTerm proposes a decision in the term of a deposed leader.
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

// oldEpoch ends an attempt as a former owner would, after a new owner was assigned.
func oldEpoch(w *world) error {
	lead, _ := w.leader()
	r := lead.alive()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var id string
	var first *imagebuilderv1.Attempt
	latest := func() *imagebuilderv1.Attempt { return builds.LastAttempt(r.store().Build(id).GetBuild()) }
	for i := 0; first == nil; i++ { // a third of the workloads end at once, and another build is needed
		req := buildRequest(fmt.Sprint("a", i), fmt.Sprint(i))
		if runtimeOf(req.Source) != inNode { // a pod outlives its owner
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
		return fmt.Errorf("the end of attempt %d was accepted from the former owner (%v)", first.Number, err)
	}
	return nil
}
