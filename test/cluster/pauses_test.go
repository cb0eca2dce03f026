//go:build faults

package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/builds"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/harness"
)

// Test_Pauses_ReadsAreNotStale stops the process of the leader for one to two seconds, or until the
// others have acknowledged a build, again and again, while builds are created through the other
// nodes. 20 lists and 20 reads of each pause are sent to the stopped leader, or right after it
// continues. None of them lacks a build that was acknowledged before it was sent. PAUSES=300 makes 300
// pauses.
func Test_Pauses_ReadsAreNotStale(t *testing.T) {
	pauses := 6
	if s := os.Getenv("PAUSES"); s != "" {
		var err error
		if pauses, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	c, refs := harness.StartClusterWithImages(t, 3, 10, nil)
	p := &pausedReads{t: t, c: c, refs: refs}
	harness.AwaitMembers(t, c, "the nodes form a cluster of this version", func(r *imagebuilderv1.MembersResponse) bool {
		return harness.Voters(r) == 3 && r.FeatureLevel >= builds.ConfirmLevel
	})
	for range pauses {
		harness.AwaitMembers(t, c, "all nodes follow", func(r *imagebuilderv1.MembersResponse) bool {
			return !slices.ContainsFunc(r.Members, func(m *imagebuilderv1.ClusterMember) bool { return m.State != "alive" || m.TrailsBy > 100 })
		})
		p.pause()
	}
	t.Logf("%d pauses, in %d of them a build was acknowledged; %d of %d reads and lists returned, %d were stale", pauses, p.replaced, p.returned, p.sent, p.stale)
	if p.replaced == 0 || p.returned == 0 {
		t.Error("no read can have been stale: the test proves nothing")
	}
}

// pausedReads reads on leaders that were stopped, and knows the acknowledged builds.
type pausedReads struct {
	t    *testing.T
	c    *harness.Cluster
	refs []string

	mu                              sync.Mutex
	acked                           []string // ids, in order of acknowledgement
	replaced, sent, returned, stale int
}

// pause stops the leader and reads on it.
func (p *pausedReads) pause() {
	lead := p.c.Leader()
	lead.AwaitAnswer() // its connection is open
	ctx, cancel := context.WithCancel(p.t.Context())
	defer cancel()
	var creators, readers sync.WaitGroup
	for _, n := range p.c.Others(lead) {
		creators.Go(func() { p.create(ctx, n) })
	}
	<-time.After(100*time.Millisecond + rand.N(50*time.Millisecond)) // the followers write meanwhile, and their responses are in flight
	lead.Signal(syscall.SIGSTOP)
	before := p.count()
	<-time.After(time.Second + rand.N(time.Second)) // the fault: the process is stopped
	// On a busy machine the others need longer to elect a leader and to write.
	for end := time.Now().Add(10 * time.Second); p.count() <= before+1 && time.Now().Before(end); {
		<-time.After(10 * time.Millisecond)
	}
	cancel()
	creators.Wait()
	if len(p.acked) > before+1 { // one may have been committed before
		p.replaced++
	}
	p.read(&readers, lead) // the calls wait in the sockets of the stopped process
	<-time.After(20 * time.Millisecond)
	lead.Signal(syscall.SIGCONT)
	p.read(&readers, lead)
	readers.Wait()
}

// count returns the number of acknowledged builds.
func (p *pausedReads) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.acked)
}

// create creates builds through a node until ctx ends.
func (p *pausedReads) create(ctx context.Context, n *harness.Node) {
	for ctx.Err() == nil {
		res, err := n.Native.BuildImage(ctx, &imagebuilderv1.BuildImageRequest{
			RequestId: uuid.NewString(), Source: harness.RefSource(p.refs[rand.IntN(len(p.refs))]), Force: true, Requester: "r" + n.Name,
		})
		if err == nil {
			p.mu.Lock()
			if !slices.Contains(p.acked, res.Build.Id) {
				p.acked = append(p.acked, res.Build.Id)
			}
			p.mu.Unlock()
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// read sends 10 lists and 10 reads to a node.
func (p *pausedReads) read(readers *sync.WaitGroup, n *harness.Node) {
	if len(p.acked) == 0 {
		return
	}
	last := slices.Clone(p.acked[max(0, len(p.acked)-20):])
	for i := range 20 {
		readers.Go(func() {
			ctx, cancel := context.WithTimeout(p.t.Context(), 5*time.Second)
			defer cancel()
			judge := p.judgeRead
			if i%2 == 0 {
				judge = p.judgeList
			}
			ok, stale := judge(ctx, n, last)
			p.mu.Lock()
			defer p.mu.Unlock()
			p.sent++
			if ok {
				p.returned++
			}
			if stale != "" {
				p.stale++
				p.t.Errorf("%s was the leader and was stopped: %s", n.Name, stale)
			}
		})
	}
}

// judgeList lists the newest builds linearizably. It reports whether the call returned, and how the
// list is stale.
func (p *pausedReads) judgeList(ctx context.Context, n *harness.Node, acked []string) (ok bool, stale string) {
	res, err := n.Native.ListBuilds(ctx, &imagebuilderv1.ListBuildsRequest{Linearizable: true, PageSize: 200})
	if err != nil {
		return false, ""
	}
	for _, id := range acked {
		if !slices.ContainsFunc(res.Builds, func(b *imagebuilderv1.Build) bool { return b.Id == id }) {
			return true, fmt.Sprintf("a list of %d builds lacks the acknowledged build %s", len(res.Builds), id)
		}
	}
	return true, ""
}

// judgeRead reads the newest build linearizably.
func (p *pausedReads) judgeRead(ctx context.Context, n *harness.Node, acked []string) (ok bool, stale string) {
	id := acked[len(acked)-1]
	_, err := n.Native.BuildStatus(ctx, &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Id{Id: id}, Linearizable: true})
	if status.Code(err) == codes.NotFound {
		return true, "a read does not find the acknowledged build " + id
	}
	return err == nil, ""
}
