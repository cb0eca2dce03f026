//go:build faults

package cluster

import (
	"context"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/netns"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// awaitOtherLeader waits until nodes have a leader other than not.
func awaitOtherLeader(t testing.TB, nodes []*harness.Node, not *harness.Node) {
	t.Helper()
	testkit.Eventually(t, 30*time.Second, "the others have a leader", func() bool {
		res, err := nodes[0].Members(t.Context(), true)
		return err == nil && res.Leader != "" && res.Leader != not.Name
	})
}

// Test_Partition_LeaderInMinority cuts the leader off from the other nodes. Clients still reach all
// nodes.
func Test_Partition_LeaderInMinority(t *testing.T) {
	a := netns.StartCluster(t, 3)
	l := harness.StartCallers(t, a.Cluster, a.Refs, 8, 10)
	testkit.Eventually(t, time.Minute, "builds go through", func() bool { return l.Builds.Load() > 10 })
	lead := a.Leader()
	others := a.Others(lead)
	known, err := lead.Native.ListBuilds(t.Context(), &imagebuilderv1.ListBuildsRequest{PageSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	a.Net.Part([]*netns.Host{a.Host(lead)}, a.Net.Others(a.Host(lead)))
	awaitOtherLeader(t, others, lead)

	// The former leader serves reads and marks them stale.
	testkit.Eventually(t, 10*time.Second, "reads of the minority are marked stale", func() bool {
		res, err := lead.Native.BuildStatus(t.Context(), &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Id{Id: known.Builds[0].Id}})
		return err == nil && !res.Read.LeaderKnown
	})
	// It refuses writes with the reason before the caller's deadline.
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err = lead.Native.BuildImage(ctx, &imagebuilderv1.BuildImageRequest{
		RequestId: uuid.NewString(), Source: harness.RefSource(a.Refs[0]), Force: true, Requester: "minority",
	})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "no leader") || ctx.Err() != nil {
		t.Errorf("a write to the minority: %v", err)
	}
	// Its scheduler stops, and it does not report itself as leader.
	if body, _ := lead.Get("http://" + lead.Metrics + "/metrics"); strings.Contains(body, "\nimage_builder_leader 1\n") {
		t.Error("the node in the minority reports that it leads")
	}
	done := l.Builds.Load()
	testkit.Eventually(t, time.Minute, "the majority accepts builds", func() bool { return l.Builds.Load() > done+20 })
	a.Net.Heal()
	harness.AwaitMembers(t, a.Cluster, "all nodes are there", func(r *imagebuilderv1.MembersResponse) bool { return r.FailureTolerance == 1 })
	l.End()
	harness.AwaitSameBuilds(t, a.Cluster)
}

// Test_Partition_OneWay drops the packets from one follower to the leader. Then it cuts the
// connection between the leader and one follower, so that both reach only the third node.
func Test_Partition_OneWay(t *testing.T) {
	a := netns.StartCluster(t, 3)
	l := harness.StartCallers(t, a.Cluster, a.Refs, 8, 10)
	lead := a.Leader()
	others := a.Others(lead)
	a.Host(lead).Deaf(a.Host(others[0]))
	done := l.Builds.Load()
	testkit.Eventually(t, time.Minute, "builds go on although the leader does not hear a follower", func() bool { return l.Builds.Load() > done+20 })
	a.Net.Heal()
	lead = a.Leader()
	others = a.Others(lead)
	a.Net.Part([]*netns.Host{a.Host(lead)}, []*netns.Host{a.Host(others[0])})
	before := term(t, others[1])
	done = l.Builds.Load()
	testkit.Eventually(t, time.Minute, "builds go on although two nodes see only the third", func() bool { return l.Builds.Load() > done+50 })
	if n := term(t, others[1]) - before; n > 3 {
		t.Errorf("%d elections while the bridge stood", n)
	}
	a.Net.Heal()
	l.End()
	harness.AwaitSameBuilds(t, a.Cluster)
}

// Test_Pause stops the process of the leader for a while, and then the process of a follower.
func Test_Pause(t *testing.T) {
	c, refs := harness.StartClusterWithImages(t, 3, 30, nil)
	l := harness.StartCallers(t, c, refs, 8, 10)
	testkit.Eventually(t, time.Minute, "builds go through", func() bool { return l.Builds.Load() > 10 })
	for _, pause := range []struct {
		what string
		who  func() *harness.Node
		long time.Duration
	}{
		{"leader", c.Leader, time.Duration(testkit.InSoak(30, 12)) * time.Second},
		{"follower", func() *harness.Node { return c.Others(c.Leader())[0] }, time.Duration(testkit.InSoak(60, 20)) * time.Second},
	} {
		n := pause.who()
		done := l.Builds.Load()
		n.Signal(syscall.SIGSTOP)
		begin := time.Now()
		testkit.Eventually(t, time.Minute, "builds go on without the "+pause.what, func() bool { return l.Builds.Load() > done+20 })
		t.Logf("%s stopped: 20 more builds after %s", pause.what, time.Since(begin).Round(time.Millisecond))
		<-time.After(pause.long - time.Since(begin)) // the fault: the process sleeps
		n.Signal(syscall.SIGCONT)
		harness.AwaitMembers(t, c, "all nodes are there", func(r *imagebuilderv1.MembersResponse) bool { return r.FailureTolerance == 1 })
	}
	l.End()
	harness.AwaitSameBuilds(t, c)
}

// Benchmark_Failover_HostLost measures the time from the loss of all packets of the leader's host
// to the first build that is acknowledged through another node.
func Benchmark_Failover_HostLost(b *testing.B) {
	a := netns.StartCluster(b, 3)
	l := startLoad(b, a.Cluster, a.Refs, 8, 5)
	var took []time.Duration
	for range b.N {
		lead := a.Leader()
		others := a.Others(lead)
		survivor := others[0]
		a.Host(lead).Vanish()
		begin := time.Now()
		if x := l.requestAt(b.Context(), survivor, others); x != nil {
			l.record(x)
		}
		took = append(took, time.Since(begin))
		a.Net.Heal()
		testkit.Eventually(b, time.Minute, "all nodes are there", func() bool {
			res, err := survivor.Members(b.Context(), false)
			return err == nil && res.FailureTolerance == 1
		})
	}
	l.end()
	report(b, took)
}

// Benchmark_Failover_Graceful measures how long no build is acknowledged when SIGTERM stops the
// leader.
func Benchmark_Failover_Graceful(b *testing.B) {
	c, refs := harness.StartClusterWithImages(b, 3, 50, nil)
	l := startLoad(b, c, refs, 8, 5)
	var took []time.Duration
	for range b.N {
		lead := c.Leader()
		survivor := c.Others(lead)[0]
		stopped := make(chan struct{})
		begin := time.Now()
		go func() { defer close(stopped); lead.Stop() }()
		testkit.Eventually(b, time.Minute, "the leadership is away", func() bool {
			res, err := survivor.Members(b.Context(), true)
			if err == nil && res.Leader == lead.Name {
				begin = time.Now() // it still leads
			}
			return err == nil && res.Leader != "" && res.Leader != lead.Name
		})
		if x := l.request(b.Context(), survivor); x != nil {
			l.record(x)
		}
		took = append(took, time.Since(begin))
		<-stopped
		lead.Run()
		testkit.Eventually(b, time.Minute, "all nodes are there", func() bool {
			res, err := survivor.Members(b.Context(), false)
			return err == nil && res.FailureTolerance == 1
		})
	}
	l.end()
	report(b, took)
}
