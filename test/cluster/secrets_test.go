//go:build faults

package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/image-builder-ha/image-builder/client"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_Secrets_LeaderChanges requests builds by 32 clients, each with its own credential of a
// registry, while leaders are stopped and killed in turn and started again. A build without its
// secret fails with 401. Every acknowledged build succeeds. With SOAK it continues until 10,000
// builds have ended, and changes the leader at least six times each way.
func Test_Secrets_LeaderChanges(t *testing.T) {
	builds, changes := int64(testkit.InSoak(10_000, 100)), testkit.InSoak(12, 2)
	to := registrytest.Start(t, registrytest.Options{})
	private := newPrivateRegistry(t, 32)
	c := harness.StartCluster(t, 3, to.Addr, harness.Config{
		"log": map[string]any{"level": "info"},
		// Attempts that end with their node do not fail a build.
		"builds": map[string]any{"uncountedAttempts": 100, "retryBackoff": "100ms"},
	})
	l := private.request(t, c, float64(testkit.InSoak(200, 60)))
	done := 0
	for ; done < changes || l.ended.Load() < builds; done++ {
		before := l.ended.Load()
		testkit.Eventually(t, 2*time.Minute, "builds end", func() bool { return l.ended.Load() >= before+10 })
		lead := c.Leader()
		if done%2 == 0 {
			lead.Stop()
		} else {
			lead.Kill()
		}
		lead.Run()
		harness.AwaitMembers(t, c, "all nodes are there", func(r *imagebuilderv1.MembersResponse) bool { return r.FailureTolerance == 1 })
	}
	l.end()
	t.Logf("%d leaders were stopped and %d killed; %d builds were acknowledged, %d succeeded, %d lost their secret", (done+1)/2, done/2, l.acked.Load(), l.ended.Load(), l.lost.Load())
	harness.AwaitSameBuilds(t, c)
}

// privateRegistry is a registry with a repository for each client, which only the client may read.
type privateRegistry struct {
	addr    string
	clients int
}

// imagesPerClient is the number of images in each repository.
const imagesPerClient = 8

func newPrivateRegistry(t *testing.T, clients int) *privateRegistry {
	t.Helper()
	reg := registrytest.Start(t, registrytest.Options{Quiet: true})
	for client := range clients {
		for i := range imagesPerClient {
			reg.Push(t, fmt.Sprintf("c%d/app:%d", client, i), registrytest.RandomImage(t, 1, 256))
		}
	}
	proxy := registrytest.NewProxy(t, reg)
	proxy.On(registrytest.All, -1, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		user, password, _ := r.BasicAuth()
		if password != "the password of "+user || r.URL.Path != "/v2/" && !strings.HasPrefix(r.URL.Path, "/v2/"+user+"/") {
			w.Header().Set("WWW-Authenticate", "Basic realm=private")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
	return &privateRegistry{proxy.Addr, clients}
}

// secretLoad are clients that request builds with secrets, one after the other.
type secretLoad struct {
	t                  testing.TB
	acked, ended, lost atomic.Int64 // builds; those that succeeded; those that failed with 401

	stop    context.CancelFunc
	done    sync.WaitGroup
	clients []*client.Client
}

// request starts the clients, which together request perSecond builds a second until end.
func (p *privateRegistry) request(t testing.TB, c *harness.Cluster, perSecond float64) *secretLoad {
	t.Helper()
	l := &secretLoad{t: t}
	var ctx context.Context
	ctx, l.stop = context.WithCancel(t.Context())
	limit := rate.NewLimiter(rate.Limit(perSecond), 1)
	for i := range p.clients {
		var o client.Options
		for k := range c.Nodes {
			o.Servers = append(o.Servers, c.Nodes[(i+k)%len(c.Nodes)].GRPC)
		}
		cl, err := client.New(o)
		if err != nil {
			t.Fatal(err)
		}
		l.clients = append(l.clients, cl)
		user := fmt.Sprintf("c%d", i)
		auth := &imagebuilderv1.RegistryAuth{Additional: map[string]*imagebuilderv1.BasicAuth{p.addr: {Username: user, Password: "the password of " + user}}}
		l.done.Go(func() {
			for limit.Wait(ctx) == nil {
				ref := fmt.Sprintf("%s/%s/app:%d", p.addr, user, rand.IntN(imagesPerClient))
				l.one(cl, &imagebuilderv1.BuildImageRequest{Source: harness.RefSource(ref), Force: true, Requester: user, Auth: auth})
			}
		})
	}
	return l
}

// one requests a build and waits for its end.
func (l *secretLoad) one(cl *client.Client, req *imagebuilderv1.BuildImageRequest) {
	ctx, cancel := context.WithTimeout(l.t.Context(), 2*time.Minute) // not with the load's context: a request that was sent is awaited
	defer cancel()
	res, err := cl.Build(ctx, req)
	if err != nil {
		l.t.Errorf("a build was not acknowledged: %v", err)
		return
	}
	l.acked.Add(1)
	b, err := cl.Wait(ctx, res.Build.Id)
	switch {
	case err != nil:
		l.t.Errorf("acknowledged build %s: %v", res.Build.Id, err)
	case b.Phase == imagebuilderv1.Phase_PHASE_SUCCEEDED:
		l.ended.Add(1)
	default:
		if strings.Contains(b.Message, "401") || strings.Contains(strings.ToLower(b.Message), "unauthorized") {
			l.lost.Add(1)
		}
		l.t.Errorf("acknowledged build %s is %s: %s", b.Id, b.Phase, b.Message)
	}
}

// end stops the clients and waits for their last builds.
func (l *secretLoad) end() {
	l.t.Helper()
	l.stop()
	l.done.Wait()
	for _, cl := range l.clients {
		_ = cl.Close()
	}
}
