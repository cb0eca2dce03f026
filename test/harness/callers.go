package harness

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/client"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Callers are clients that put load on a cluster through the package client. Each knows the
// addresses of all nodes. Every error that the package returns fails the test.
type Callers struct {
	// Builds is the number of builds that have succeeded and whose log was read.
	Builds atomic.Int64

	t      testing.TB
	client *client.Client
	stop   context.CancelFunc
	done   sync.WaitGroup
	failed atomic.Int64
	worst  atomic.Int64 // the longest BuildImage, nanoseconds
}

// StartCallers runs count callers that together request perSecond builds of random
// images a second, until End.
func StartCallers(t testing.TB, c *Cluster, refs []string, count int, perSecond float64) *Callers {
	t.Helper()
	var o client.Options
	for _, n := range c.Nodes {
		o.Servers = append(o.Servers, n.GRPC)
	}
	l := &Callers{t: t}
	var err error
	if l.client, err = client.New(o); err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, l.stop = context.WithCancel(t.Context())
	tick := time.NewTicker(time.Duration(float64(time.Second) / perSecond))
	for i := range count {
		l.done.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
					l.one(fmt.Sprintf("r%d", i), refs[rand.IntN(len(refs))])
				}
			}
		})
	}
	return l
}

// one requests a build, waits for its end and reads its log.
func (l *Callers) one(requester, ref string) {
	ctx, cancel := context.WithTimeout(l.t.Context(), 90*time.Second)
	defer cancel()
	begin := time.Now()
	res, err := l.client.Build(ctx, &imagebuilderv1.BuildImageRequest{Source: RefSource(ref), Force: true, Requester: requester})
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
	if b.Phase != imagebuilderv1.Phase_PHASE_SUCCEEDED {
		l.failed.Add(1)
		l.t.Errorf("build %s is %s: %s", b.Id, b.Phase, b.Message)
	}
	size := int64(0)
	l.fail("BuildLogs", l.client.Logs(ctx, client.LogsRequest{Build: b.Id, Follow: true}, func(c client.Chunk) error {
		size += int64(len(c.Content))
		return nil
	}))
	l.Builds.Add(1)
}

func (l *Callers) fail(call string, err error) bool {
	if err != nil {
		l.failed.Add(1)
		l.t.Errorf("%s failed: %v", call, err)
	}
	return err != nil
}

// End stops the callers, waits for their last builds and logs the totals.
func (l *Callers) End() {
	l.t.Helper()
	l.stop()
	l.done.Wait()
	_ = l.client.Close()
	l.t.Logf("%d builds, %d failed calls, the slowest BuildImage took %s", l.Builds.Load(), l.failed.Load(), time.Duration(l.worst.Load()).Round(time.Millisecond))
	if l.Builds.Load() == 0 {
		l.t.Error("no build succeeded")
	}
}
