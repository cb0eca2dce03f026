package gitpod

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/proto/builder"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/proto/wsman"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager/wsmanagertest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_Identical_OneStart sends 50 concurrent requests for one image to three nodes. One workspace
// starts, and the metrics count one build.
func Test_Identical_OneStart(t *testing.T) {
	in := newInstall(t)
	release := make(chan struct{})
	in.work = func(string, *wsmanagertest.Workspace) { in.await(release) }
	c := in.cluster(3, nil)
	ctx := testkit.Context(t, 2*time.Minute)
	errs := make(chan error, 50)
	for i := range 50 {
		go func() { errs <- success(c.Nodes[i%3].BuildGitpod(ctx, dockerfile(1))) }()
	}
	testkit.Eventually(t, 30*time.Second, "the workspace runs", func() bool { n, _ := in.total(); return n == 1 })
	close(release)
	for range 50 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n, _ := in.total(); n != 1 {
		t.Errorf("%d workspaces were started, want 1", n)
	}
	req := in.m.Starts()[0]
	if req.Metadata.Owner != "user-1" || req.Spec.IdeImage.SupervisorRef != "registry.example.com/supervisor:7" {
		t.Errorf("owner %q, supervisor %q", req.Metadata.Owner, req.Spec.IdeImage.SupervisorRef)
	}
	testkit.Eventually(t, 20*time.Second, "one build is counted over all nodes", func() bool {
		return sum(t, c, "gitpod_image_builder_builds_started_total") == 1 && sum(t, c, `gitpod_image_builder_builds_done_total{success="true"}`) == 1
	})
	if in.m.Subscriptions() != 3 {
		t.Errorf("%d subscriptions of three nodes", in.m.Subscriptions())
	}
}

// Test_LeaderAndOwnerDie starts a build through the leader and follows it through another node
// while the leader and then the owner are killed. The build continues in the same workspace, and
// each reader, during the build or later, gets exactly the bytes that it wrote.
func Test_LeaderAndOwnerDie(t *testing.T) {
	in := newInstall(t)
	const parts, lines = 4, 200
	steps := make(chan struct{})
	var want strings.Builder
	for part := range parts {
		for line := range lines {
			fmt.Fprintf(&want, "part %d line %d\n", part, line)
		}
	}
	in.work = func(_ string, ws *wsmanagertest.Workspace) {
		for part, rest := 0, want.String(); part < parts; part++ {
			n := strings.Index(rest, fmt.Sprintf("part %d", part+1))
			if n < 0 {
				n = len(rest)
			}
			_, _ = ws.Write([]byte(rest[:n]))
			rest = rest[n:]
			in.await(steps)
		}
	}
	c := in.cluster(3, nil)
	ctx := testkit.Context(t, 3*time.Minute)
	lead := c.Leader()
	survivor := c.Others(lead)[0]
	begun := first(t, lead.Gitpod, dockerfile(1))
	testkit.Eventually(t, 30*time.Second, "the workspace runs", func() bool { n, _ := in.total(); return n == 1 })
	id := running(t, survivor)
	type end struct {
		all  []*builder.BuildResponse
		text string
		err  error
	}
	built, read := make(chan end, 1), make(chan end, 1)
	go func() {
		all, err := survivor.BuildGitpod(ctx, dockerfile(1))
		built <- end{all: all, err: err}
	}()
	go func() {
		text, err := readLogs(ctx, survivor, &builder.LogsRequest{BuildRef: begun.Ref})
		read <- end{text: text, err: err}
	}()
	steps <- struct{}{}
	lead.Kill()
	next := c.Leader()
	steps <- struct{}{}
	lead.Run()
	owner := ownerOf(t, c, survivor, id)
	if owner == survivor { // the client needs this node
		owner = next
	}
	if owner == survivor {
		owner = lead
	}
	owner.Kill()
	for range parts - 2 {
		steps <- struct{}{}
	}
	e := <-built
	if err := success(e.all, e.err); err != nil {
		t.Errorf("the stream that followed the build: %v", err)
	} else if last := e.all[len(e.all)-1]; e.all[0].GetInfo().GetBuildId() != id || last.Ref != begun.Ref || last.BaseRef != begun.BaseRef {
		t.Errorf("followed %v, want build %s with the refs of %v", last, id, begun)
	}
	owner.Run()
	if n, _ := in.total(); n != 1 {
		t.Errorf("%d workspaces were started, want 1", n)
	}
	live := <-read
	texts := map[string]end{"followed": live}
	for _, n := range c.Nodes {
		text, err := readLogs(ctx, n, &builder.LogsRequest{BuildId: id})
		texts["from "+n.Name] = end{text: text, err: err}
	}
	whole := "building " + id + "\n" + want.String() + "pushed\n"
	for reader, e := range texts {
		if e.err != nil || e.text != whole {
			t.Errorf("the log %s has %d bytes, want the %d written bytes: %v\n%.500s", reader, len(e.text), len(whole), e.err, e.text)
		}
	}
}

func running(t testing.TB, n *harness.Node) (id string) {
	t.Helper()
	testkit.Eventually(t, 30*time.Second, "one build runs", func() bool {
		res, err := n.Gitpod.ListBuilds(t.Context(), &builder.ListBuildsRequest{})
		if err != nil || len(res.Builds) != 1 {
			return false
		}
		id = res.Builds[0].BuildId
		st, err := n.Native.BuildStatus(t.Context(), &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Id{Id: id}})
		return err == nil && st.Build.Phase == imagebuilderv1.Phase_PHASE_RUNNING
	})
	return id
}

func ownerOf(t testing.TB, c *harness.Cluster, at *harness.Node, id string) *harness.Node {
	t.Helper()
	res, err := at.Native.BuildStatus(t.Context(), &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Id{Id: id}})
	if err != nil {
		t.Fatal(err)
	}
	name := res.Build.Attempts[len(res.Build.Attempts)-1].Owner
	for _, n := range c.Nodes {
		if n.Name == name {
			return n
		}
	}
	t.Fatalf("no node is named %q", name)
	return nil
}

// Test_InstantWorkspaces ends many workspaces (1,000 in a soak) before the call that starts them returns. No stream
// hangs, and every result is correct.
func Test_InstantWorkspaces(t *testing.T) {
	in := newInstall(t)
	in.atOnce = true
	c := in.cluster(3, nil)
	ctx := testkit.Context(t, 5*time.Minute)
	const clients = 64
	builds := testkit.InSoak(1000, 200)
	next := make(chan int)
	var wg sync.WaitGroup
	begin := time.Now()
	for range clients {
		wg.Go(func() {
			for i := range next {
				if err := success(c.Nodes[i%3].BuildGitpod(ctx, dockerfile(i))); err != nil {
					t.Errorf("build %d: %v", i, err)
				}
			}
		})
	}
	for i := range builds {
		next <- i
	}
	close(next)
	wg.Wait()
	n, most := in.total()
	t.Logf("%d builds in %s: %d workspaces, at most %d for one image", builds, time.Since(begin).Round(time.Millisecond), n, most)
	if n != builds || most != 1 {
		t.Errorf("%d workspaces, at most %d for one image; want %d and 1", n, most, builds)
	}
	testkit.Eventually(t, 20*time.Second, "all builds are counted once", func() bool {
		return sum(t, c, `gitpod_image_builder_builds_done_total{success="true"}`) == float64(builds)
	})
}

// Test_StopTogether runs many builds (1,000 in a soak) at the same time and stops all their workspaces in the same
// moment, without a pause between STOPPING and STOPPED. Every stream ends with the correct result,
// no attempt is left, and the nodes are about as fast as before.
func Test_StopTogether(t *testing.T) {
	in := newInstall(t)
	release := make(chan struct{})
	var hold atomic.Bool
	in.work = func(string, *wsmanagertest.Workspace) {
		if hold.Load() {
			in.await(release)
		}
	}
	c := in.cluster(3, harness.Config{"builds": map[string]any{"runningPerNode": 400}})
	ctx := testkit.Context(t, 8*time.Minute)
	build := func(i int) {
		if err := success(c.Nodes[i%3].BuildGitpod(ctx, dockerfile(i))); err != nil {
			t.Errorf("build %d: %v", i, err)
		}
	}
	builds, some := testkit.InSoak(1000, 240), testkit.InSoak(150, 60)
	before := rate(32, some, build)
	hold.Store(true)
	var streams sync.WaitGroup
	for i := range builds {
		streams.Go(func() { build(some + i) })
	}
	testkit.Eventually(t, 3*time.Minute, "all workspaces run, and are followed", func() bool { return in.sup.Listening() == builds })
	began := time.Now()
	hold.Store(false)
	close(release)
	streams.Wait()
	t.Logf("%d builds ended in %s after their common stop", builds, time.Since(began).Round(time.Millisecond))
	after := rate(32, some, func(i int) { build(some + builds + i) })
	t.Logf("%.0f builds a second before, %.0f after", before, after)
	if after < before/3 { // tolerates other load on the machine
		t.Errorf("%.0f builds a second before, %.0f after", before, after)
	}
	if n, most := in.total(); n != builds+2*some || most != 1 {
		t.Errorf("%d workspaces, at most %d for one image", n, most)
	}
	testkit.Eventually(t, 30*time.Second, "no attempt runs, and each build is counted once", func() bool {
		return sum(t, c, "image_builder_attempts_running") == 0 && sum(t, c, `gitpod_image_builder_builds_done_total{success="true"}`) == float64(builds+2*some)
	})
	for _, n := range c.Nodes {
		body, _ := n.Get("http://" + n.Metrics + "/metrics")
		started := metric(t, body, `grpc_server_started_total{grpc_method="Build",grpc_service="builder.ImageBuilder",grpc_type="server_stream"}`)
		ended := metric(t, body, `grpc_server_handled_total{grpc_code="OK",grpc_method="Build",grpc_service="builder.ImageBuilder",grpc_type="server_stream"}`)
		if started == 0 || started != ended {
			t.Errorf("%s: %[3]v of %[2]v Build streams ended with OK", n.Name, started, ended)
		}
	}
}

// Test_ManagerDies stops ws-manager for 30 seconds during 100 builds, and drops all its updates of
// this time. All results are correct, also for builds that failed in this time.
func Test_ManagerDies(t *testing.T) {
	t.Parallel()
	in := newInstall(t)
	release := make(chan struct{})
	in.work = func(string, *wsmanagertest.Workspace) { in.await(release) }
	fails := func(i int) bool { return i%10 == 7 }
	c := in.cluster(3, harness.Config{"builds": map[string]any{"runningPerNode": 40}})
	ctx := testkit.Context(t, 6*time.Minute)
	const builds = 100
	wrong := map[string]bool{} // base refs of builds that fail
	for i := range builds {
		if fails(i) {
			res, err := c.Nodes[0].Gitpod.ResolveWorkspaceImage(ctx, &builder.ResolveWorkspaceImageRequest{Source: dockerfile(i).Source})
			if err != nil {
				t.Fatal(err)
			}
			wrong[res.BaseRef] = true
		}
	}
	in.finish = func(req *wsman.StartWorkspaceRequest) {
		notes, conditions := req.GetMetadata().GetAnnotations(), &wsman.WorkspaceConditions{}
		if wrong[notes["baseref"]] {
			conditions.HeadlessTaskFailed = "exit status 7"
		} else if !in.push(notes["ref"]) || !in.push(notes["baseref"]) {
			return
		}
		in.m.Update(req.GetId(), func(s *wsman.WorkspaceStatus) {
			s.Phase, s.Conditions = wsman.WorkspacePhase_STOPPED, conditions
		})
	}
	errs := make(chan error, builds)
	for i := range builds {
		go func() {
			all, err := c.Nodes[i%3].BuildGitpod(ctx, dockerfile(i))
			if end := len(all) - 1; err == nil && fails(i) {
				if all[end].Status != builder.BuildStatus_done_failure || all[end].Message != "build failed: exit status 7" {
					err = fmt.Errorf("build %d ended with %v", i, all[end])
				}
			} else {
				err = success(all, err)
			}
			errs <- err
		}()
	}
	testkit.Eventually(t, 2*time.Minute, "all workspaces run", func() bool { n, _ := in.total(); return n == builds })
	in.m.Mute(true)
	in.m.Down()
	close(release)
	in.lives.Wait() // all workspaces end while no node can learn it
	pause(t, 30*time.Second)
	in.m.Mute(false)
	in.m.Up()
	for range builds {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n, most := in.total(); n != builds || most != 1 {
		t.Errorf("%d workspaces, at most %d for one image", n, most)
	}
}

// pause waits for d, the time without ws-manager.
func pause(t testing.TB, d time.Duration) {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	<-ctx.Done()
}

// Test_ManagerDownAtStart starts nodes before ws-manager. They serve reads and queue builds, and
// run the builds once ws-manager is up.
func Test_ManagerDownAtStart(t *testing.T) {
	in := newInstall(t)
	in.m.Down()
	c := in.cluster(3, nil)
	ctx := testkit.Context(t, 2*time.Minute)
	done := make(chan error, 1)
	go func() { done <- success(c.Nodes[0].BuildGitpod(ctx, dockerfile(1))) }()
	testkit.Eventually(t, 20*time.Second, "the build is listed", func() bool {
		res, err := c.Nodes[1].Gitpod.ListBuilds(ctx, &builder.ListBuildsRequest{})
		return err == nil && len(res.Builds) == 1
	})
	testkit.Eventually(t, 20*time.Second, "/ready reports that the node is ready, and that ws-manager does not respond", func() bool {
		body, code := c.Nodes[2].Get("http://" + c.Nodes[2].Health + "/ready")
		return code == 200 && strings.Contains(body, "workspace manager")
	})
	in.m.Up()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
