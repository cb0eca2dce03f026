//go:build faults

package test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/image-builder-ha/image-builder/client"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/harness"
)

// callers use the client package as its users do: each knows all servers and
// takes every error for a failed call.
type callers struct {
	t      testing.TB
	client *client.Client
	stop   context.CancelFunc
	done   sync.WaitGroup
	builds atomic.Int64
	failed atomic.Int64
	worst  atomic.Int64 // the longest BuildImage, nanoseconds
}

func startCallers(t testing.TB, c *harness.Cluster, refs []string, count int, perSecond float64) *callers {
	t.Helper()
	var o client.Options
	for _, n := range c.Nodes {
		o.Servers = append(o.Servers, n.GRPC)
	}
	l := &callers{t: t}
	var err error
	if l.client, err = client.New(o); err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, l.stop = context.WithCancel(t.Context())
	limit := rate.NewLimiter(rate.Limit(perSecond), 1)
	for i := range count {
		l.done.Go(func() {
			for limit.Wait(ctx) == nil {
				l.one(fmt.Sprintf("r%d", i), refs[rand.IntN(len(refs))])
			}
		})
	}
	return l
}

// one builds one image to its end, and reads its log.
func (l *callers) one(who, ref string) {
	ctx, cancel := context.WithTimeout(l.t.Context(), 90*time.Second)
	defer cancel()
	begin := time.Now()
	res, err := l.client.Build(ctx, &imagebuilderv1.BuildImageRequest{Source: harness.RefSource(ref), Force: true, Requester: who})
	if l.fail("BuildImage", err) {
		return
	}
	if d := int64(time.Since(begin)); d > l.worst.Load() {
		l.worst.Store(d)
	}
	b, err := l.client.Wait(ctx, res.Build.Id)
	if l.fail("BuildStatus", err) {
		return
	}
	if b.Phase != succeeded {
		l.failed.Add(1)
		l.t.Errorf("build %s is %s: %s", b.Id, b.Phase, b.Message)
	}
	size := int64(0)
	l.fail("BuildLogs", l.client.Logs(ctx, client.LogsRequest{Build: b.Id, Follow: true}, func(c client.Chunk) error {
		size += int64(len(c.Content))
		return nil
	}))
	l.builds.Add(1)
}

func (l *callers) fail(call string, err error) bool {
	if err != nil {
		l.failed.Add(1)
		l.t.Errorf("%s failed: %v", call, err)
	}
	return err != nil
}

// end stops the callers and tells what they saw.
func (l *callers) end() {
	l.t.Helper()
	l.stop()
	l.done.Wait()
	_ = l.client.Close()
	l.t.Logf("%d builds, %d failed calls, the slowest BuildImage took %s", l.builds.Load(), l.failed.Load(), time.Duration(l.worst.Load()).Round(time.Millisecond))
	if l.builds.Load() == 0 {
		l.t.Error("nothing was built")
	}
}

// Test_Rolling_Restart stops and starts all nodes, one after the other, while
// clients build: none of their calls may fail.
func Test_Rolling_Restart(t *testing.T) {
	c, refs := startCluster(t, 3, 50)
	l := startCallers(t, c, refs, 16, 20)
	for range 2 {
		for _, n := range c.Nodes {
			n.Stop()
			n.Run()
			members(t, c, "all nodes are there", func(r *imagebuilderv1.MembersResponse) bool { return r.FailureTolerance == 1 })
		}
	}
	l.end()
}

// Test_Grow_And_Shrink goes from three nodes to five voters, to seven members,
// and back to three, under load.
func Test_Grow_And_Shrink(t *testing.T) {
	c, refs := startCluster(t, 3, 50)
	c.Override(harness.Config{"cluster": map[string]any{"voters": 5}})
	for _, n := range c.Nodes { // with the new number of voters
		n.Stop()
		n.Run()
	}
	l := startCallers(t, c, refs, 8, 10)
	for range 2 {
		c.Add().Run()
	}
	members(t, c, "five nodes vote", func(r *imagebuilderv1.MembersResponse) bool { return voters(r) == 5 && len(r.Members) == 5 })
	for range 2 {
		c.Add().Run()
	}
	members(t, c, "seven nodes are members, five vote", func(r *imagebuilderv1.MembersResponse) bool { return voters(r) == 5 && len(r.Members) == 7 })
	for _, n := range c.Nodes[3:] {
		n.Stop()
		removed := func() bool {
			_, err := c.Running()[0].Operator().RemoveNode(t.Context(), &imagebuilderv1.RemoveNodeRequest{Node: n.Name})
			return err == nil
		}
		harness.Eventually(t, 30*time.Second, n.Name+" is removed", removed)
	}
	members(t, c, "three nodes are left, all vote", func(r *imagebuilderv1.MembersResponse) bool { return voters(r) == 3 && len(r.Members) == 3 })
	l.end()
}

// Test_Follower_CatchesUpBySnapshot keeps a node away for longer than the log
// remembers.
func Test_Follower_CatchesUpBySnapshot(t *testing.T) {
	c, refs := startClusterWith(t, 3, 50, harness.Config{"raft": map[string]any{"snapshotThreshold": 50, "snapshotInterval": "200ms", "trailingLogs": 10, "segmentBytes": 64 << 10}, "log": map[string]any{"level": "debug"}})
	away := c.Others(c.Leader())[0]
	away.Kill()
	l := startCallers(t, c, refs, 8, 50)
	harness.Eventually(t, time.Minute, "200 builds are done", func() bool { return l.builds.Load() >= 200 })
	l.end()
	away.Run()
	harness.Eventually(t, 30*time.Second, "the node got a snapshot", func() bool { return strings.Contains(away.Log(), "Installed remote snapshot") })
	sameEverywhere(t, c)
}

// Test_Wipe_DuringElection kills the leader and wipes another voter's disk at
// the same time.
func Test_Wipe_DuringElection(t *testing.T) {
	c, refs := startClusterWith(t, 5, 50, harness.Config{"cluster": map[string]any{"voters": 5}})
	members(t, c, "five nodes vote", func(r *imagebuilderv1.MembersResponse) bool { return voters(r) == 5 })
	l := startCallers(t, c, refs, 8, 10)
	harness.Eventually(t, time.Minute, "builds go through", func() bool { return l.builds.Load() > 10 })
	lead := c.Leader()
	wiped := c.Others(lead)[0]
	lead.Kill9()
	wiped.Kill()
	lead.AwaitExit()
	if err := os.RemoveAll(filepath.Join(wiped.Dir, "data")); err != nil {
		t.Fatal(err)
	}
	wiped.Run()
	lead.Run()
	members(t, c, "five nodes vote again, the former store is gone", func(r *imagebuilderv1.MembersResponse) bool {
		return voters(r) == 5 && len(r.Members) == 5 && r.FailureTolerance == 2
	})
	l.end()
	sameEverywhere(t, c)
}

// Test_Leader_DiskFull and slow: the leader gives up leadership, and builds go
// on.
func Test_Leader_DiskFails(t *testing.T) {
	for name, fault := range map[string]map[string]any{
		"full": {"disk_full": true},
		"slow": {"disk_delay": int64(4 * time.Second)},
	} {
		t.Run(name, func(t *testing.T) {
			c, refs := startCluster(t, 3, 50)
			l := startCallers(t, c, refs, 8, 10)
			harness.Eventually(t, time.Minute, "builds go through", func() bool { return l.builds.Load() > 10 })
			lead := c.Leader()
			lead.Hurt(fault)
			begin := time.Now()
			other := c.Others(lead)[0]
			harness.Eventually(t, time.Minute, "another node leads", func() bool {
				res, err := other.Members(t.Context(), true)
				return err == nil && res.Leader != "" && res.Leader != lead.Name
			})
			t.Logf("another leader after %s", time.Since(begin).Round(time.Millisecond))
			done := l.builds.Load()
			harness.Eventually(t, time.Minute, "builds go on", func() bool { return l.builds.Load() > done+20 })
			if lead.Alive() {
				lead.Hurt(map[string]any{})
			} else {
				lead.Run()
			}
			l.end()
			members(t, c, "all nodes are there", func(r *imagebuilderv1.MembersResponse) bool { return r.FailureTolerance == 1 })
			sameEverywhere(t, c)
		})
	}
}
