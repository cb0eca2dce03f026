//go:build faults

package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sync/errgroup"

	"github.com/image-builder-ha/image-builder/proto/builder"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

var images struct {
	sync.Once
	dir string
}

// registryWithImages starts a registry with n different images. The images are pushed once for all
// tests of a run, so each test has to publish to a repository of its own.
func registryWithImages(t testing.TB, n int) (*registrytest.Registry, []string) {
	t.Helper()
	images.Do(func() {
		dir, err := os.MkdirTemp("", "image-builder-images-")
		if err != nil {
			t.Fatal(err)
		}
		images.dir = dir
		cleanups = append(cleanups, func() { _ = os.RemoveAll(dir) })
		reg := registrytest.Start(t, registrytest.Options{Storage: dir})
		harness.PushImages(t, reg, n)
		reg.Stop()
	})
	reg := registrytest.Start(t, registrytest.Options{Storage: images.dir})
	refs := make([]string, n)
	for i := range refs {
		refs[i] = fmt.Sprintf("%s/many/app:%d", reg.Addr, i)
	}
	return reg, refs
}

// seenLogs checks that no byte of a log ever changes.
type seenLogs struct {
	mu   sync.Mutex
	logs map[string][]byte
}

func (s *seenLogs) see(t *testing.T, build string, attempt uint32, offset int64, content []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := fmt.Sprintf("%s/%d", build, attempt)
	old := s.logs[key]
	if int(offset) > len(old) {
		return // another reader has not read so far yet
	}
	for i, b := range content {
		at := int(offset) + i
		if at < len(old) {
			if old[at] != b {
				t.Errorf("log %s changed at offset %d", key, at)
				return
			}
			continue
		}
		old = append(old, b)
	}
	s.logs[key] = old
}

// Test_Kill9_Under_Load builds 2,000 images from 32 clients while the node is killed twenty times
// at random moments.
func Test_Kill9_Under_Load(t *testing.T) {
	const images, clients, kills = 2000, 32, 20
	reg, refs := registryWithImages(t, images)
	n := harness.Start(t, reg.Addr, harness.Config{"orchestrator": map[string]any{"workspaceImageRepository": reg.Addr + "/kill9"}})
	ctx := testkit.Context(t, 15*time.Minute)
	var acked, ended atomic.Int64
	type acknowledgement struct{ request, id string }
	acknowledged := make([]acknowledgement, images)
	seen := &seenLogs{logs: map[string][]byte{}}
	work := make(chan int)
	var g errgroup.Group
	for c := range clients {
		g.Go(func() error {
			for i := range work {
				req := &imagebuilderv1.BuildImageRequest{
					RequestId: fmt.Sprint("request-", i), Requester: fmt.Sprint("client-", c), Source: harness.RefSource(refs[i]),
				}
				res, err := harness.Persist(ctx, func(ctx context.Context) (*imagebuilderv1.BuildImageResponse, error) {
					return n.Native.BuildImage(ctx, req)
				})
				if err != nil {
					return fmt.Errorf("build %s: %w", refs[i], err)
				}
				acked.Add(1)
				if res.Exists { // an earlier try of this request built it, and its response was lost
					ended.Add(1)
					continue
				}
				acknowledged[i] = acknowledgement{req.RequestId, res.Build.Id}
				b := n.Wait(t, ctx, res.Build.Id)
				if b.GetPhase() != imagebuilderv1.Phase_PHASE_SUCCEEDED {
					return fmt.Errorf("acknowledged build %s of %s is %s: %s", res.Build.Id, refs[i], b.GetPhase(), b.GetMessage())
				}
				ended.Add(1)
				readAll(ctx, t, n, b.Id, seen)
			}
			return nil
		})
	}
	feed := make(chan struct{})
	go func() {
		defer close(feed)
		defer close(work)
		for i := range images {
			select {
			case work <- i:
			case <-ctx.Done():
				return
			}
		}
	}()
	rnd := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	for k := range kills {
		goal := int64((k + 1) * images / (kills + 1))
		testkit.Eventually(t, 5*time.Minute, fmt.Sprintf("%d builds are acknowledged", goal), func() bool { return acked.Load() >= goal })
		time.Sleep(time.Duration(rnd.IntN(50)) * time.Millisecond) // a random moment, not a wait
		n.Kill()
		n.Run()
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	<-feed
	t.Logf("%d acknowledged, %d succeeded, %d kills", acked.Load(), ended.Load(), kills)
	if acked.Load() != images || ended.Load() != images {
		t.Errorf("%d acknowledged, %d succeeded, want %d", acked.Load(), ended.Load(), images)
	}
	checkAfterwards(ctx, t, n, refs, seen)
	for i, a := range acknowledged {
		if a.id == "" {
			continue
		}
		res, err := n.Native.BuildImage(ctx, &imagebuilderv1.BuildImageRequest{
			RequestId: a.request, Requester: requesterOf(ctx, t, n, a.id), Source: harness.RefSource(refs[i]),
		})
		if err != nil || (!res.Exists && res.Build.Id != a.id) {
			t.Fatalf("request %s: got %v, %v, want build %s", a.request, res.GetBuild().GetId(), err, a.id)
		}
	}
}

func requesterOf(ctx context.Context, t *testing.T, n *harness.Node, id string) string {
	t.Helper()
	b := n.Wait(t, ctx, id)
	return b.GetRequester()
}

// readAll reads the whole log of a build, even if the node restarts meanwhile.
func readAll(ctx context.Context, t *testing.T, n *harness.Node, id string, seen *seenLogs) {
	for ctx.Err() == nil {
		stream, err := n.Native.BuildLogs(ctx, &imagebuilderv1.BuildLogsRequest{
			Build: &imagebuilderv1.BuildLogsRequest_Id{Id: id}, Follow: true,
		})
		for err == nil {
			var chunk *imagebuilderv1.BuildLogsResponse
			if chunk, err = stream.Recv(); err == nil && !chunk.Marker {
				seen.see(t, id, chunk.Attempt, chunk.Offset, chunk.Content)
			}
		}
		if errors.Is(err, io.EOF) {
			return
		}
	}
}

// checkAfterwards checks every build and every image after the last kill.
func checkAfterwards(ctx context.Context, t *testing.T, n *harness.Node, refs []string, seen *seenLogs) {
	t.Helper()
	token, total, retried := "", 0, 0
	for {
		page, err := n.Native.ListBuilds(ctx, &imagebuilderv1.ListBuildsRequest{PageSize: 1000, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range page.Builds {
			total++
			if b.Phase != imagebuilderv1.Phase_PHASE_SUCCEEDED {
				t.Errorf("build %s is %s: %s", b.Id, b.Phase, b.Message)
			}
			var epoch uint64
			for i, a := range b.Attempts {
				if int(a.Number) != i+1 || a.Epoch <= epoch {
					t.Errorf("build %s: attempt %d has epoch %d after %d", b.Id, a.Number, a.Epoch, epoch)
				}
				epoch = a.Epoch
				if i < len(b.Attempts)-1 && (a.Phase == imagebuilderv1.Phase_PHASE_SUCCEEDED || a.EndedAt == nil || a.EndedAt.AsTime().After(b.Attempts[i+1].StartedAt.AsTime())) {
					t.Errorf("build %s: attempt %d overlaps the next", b.Id, a.Number)
				}
				if a.Log.State != imagebuilderv1.LogState_LOG_STATE_SEALED {
					t.Errorf("build %s: the log of attempt %d is %s", b.Id, a.Number, a.Log.State)
				}
				if got := int64(len(seen.logs[fmt.Sprintf("%s/%d", b.Id, a.Number)])); got != a.Log.Length {
					t.Errorf("build %s: the log of attempt %d had %d bytes for readers and has %d", b.Id, a.Number, got, a.Log.Length)
				}
			}
			if len(b.Attempts) > 1 {
				retried++
			}
			tag, err := name.NewTag(b.Ref)
			if err != nil {
				t.Fatal(err)
			}
			if d, err := remote.Head(tag); err != nil || d.Digest.String() != b.Digest {
				t.Errorf("build %s: the registry has %v at its ref, %v, want %s", b.Id, d, err, b.Digest)
			}
		}
		if token = page.NextPageToken; token == "" {
			break
		}
	}
	t.Logf("%d builds, %d of them with more than one attempt", total, retried)
	if total < len(refs)*9/10 {
		t.Errorf("the state has %d builds for %d requested images", total, len(refs))
	}
}

// Test_InstantBuilds follows 2,000 builds that end at once, with 128 clients of Gitpod's API. Each
// stream gets the status running, one terminal message and the code OK, and none hangs.
func Test_InstantBuilds(t *testing.T) {
	const images, clients = 2000, 128
	reg, refs := registryWithImages(t, images)
	n := harness.Start(t, reg.Addr, harness.Config{
		"builds":       map[string]any{"runningPerNode": 128},
		"orchestrator": map[string]any{"workspaceImageRepository": reg.Addr + "/instant"},
	})
	ctx := testkit.Context(t, 10*time.Minute)
	before := usageOf(t, n)
	work := make(chan string)
	go func() {
		defer close(work)
		for _, r := range refs {
			select {
			case work <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	began := time.Now()
	var g errgroup.Group
	for range clients {
		g.Go(func() error {
			for ref := range work {
				all, err := n.BuildGitpod(ctx, &builder.BuildRequest{Source: harness.GitpodRef(ref), TriggeredBy: "load"})
				if err != nil {
					return fmt.Errorf("build %s: %w", ref, err)
				}
				if len(all) != 2 || all[0].Status != builder.BuildStatus_running || all[1].Status != builder.BuildStatus_done_success || all[1].Info.Status != all[1].Status {
					return fmt.Errorf("build %s: messages %v", ref, all)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d instant builds in %s", images, time.Since(began).Round(time.Millisecond))
	list, err := n.Gitpod.ListBuilds(ctx, &builder.ListBuildsRequest{})
	if err != nil || len(list.Builds) != 0 {
		t.Errorf("%d builds are left running, %v", len(list.GetBuilds()), err)
	}
	// The load leaves no goroutines and no descriptors behind.
	testkit.Eventually(t, 60*time.Second, "goroutines and descriptors return to their level", func() bool {
		now := usageOf(t, n)
		return now.goroutines <= before.goroutines+20 && now.fds <= before.fds+15
	})
	t.Logf("before %+v, after %+v", before, usageOf(t, n))
}

type usage struct{ goroutines, fds, heap int }

var metric = regexp.MustCompile(`(?m)^(go_goroutines|process_open_fds|go_memstats_heap_inuse_bytes) (\S+)$`)

func usageOf(t testing.TB, n *harness.Node) (v usage) {
	t.Helper()
	body, _ := n.Get("http://" + n.Metrics + "/metrics")
	for _, m := range metric.FindAllStringSubmatch(body, -1) {
		f, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case strings.HasPrefix(m[1], "go_gor"):
			v.goroutines = int(f)
		case strings.HasPrefix(m[1], "process"):
			v.fds = int(f)
		default:
			v.heap = int(f)
		}
	}
	return v
}
