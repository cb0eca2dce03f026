package observability

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/proto/builder"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/harness/buildkittest"
	"github.com/image-builder-ha/image-builder/test/testkit"
	"github.com/image-builder-ha/image-builder/tracing/tracetest"
)

// caller is a client with traces: its calls belong to a trace of its own.
type caller struct{ trace, span string }

func newCaller(n int) caller {
	return caller{trace: fmt.Sprintf("%032x", 0xc0ffee00+n), span: fmt.Sprintf("%016x", 0xbead00+n)}
}

func (c caller) context(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "traceparent", "00-"+c.trace+"-"+c.span+"-01", "tracestate", "vendor="+traceSecret)
}

// traceSecret is in all parts of a request that must not be exported.
const traceSecret = "hunter2-trace"

func tracingConfig(c *tracetest.Collector) harness.Config {
	return harness.Config{"tracing": map[string]any{"endpoint": c.Addr}}
}

// awaitTraceLevel waits until the feature level of the cluster includes traces. Before that, the
// trace of a build ends with its call.
func awaitTraceLevel(t testing.TB, c *harness.Cluster) {
	t.Helper()
	harness.AwaitMembers(t, c, "the feature level is that of traces", func(r *imagebuilderv1.MembersResponse) bool { return r.FeatureLevel >= 3 })
}

// tree is an exported trace.
type tree struct {
	t     testing.TB
	from  caller
	spans []tracetest.Span
}

// awaitTree waits until whole returns true for a trace, and returns the trace.
func awaitTree(t testing.TB, c *tracetest.Collector, from caller, what string, whole func(tree) bool) (tr tree) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the trace:\n%s", tr)
		}
	})
	testkit.Eventually(t, 60*time.Second, what, func() bool {
		tr = tree{t, from, c.Spans(from.trace)}
		return whole(tr)
	})
	return tr
}

func (tr tree) named(name string) (out []tracetest.Span) {
	for _, s := range tr.spans {
		if s.Name == name {
			out = append(out, s)
		}
	}
	return out
}

// one returns the only span of that name below the span parent.
func (tr tree) one(name, parent string) tracetest.Span {
	tr.t.Helper()
	var found []tracetest.Span
	for _, s := range tr.named(name) {
		if s.Parent == parent {
			found = append(found, s)
		}
	}
	if len(found) != 1 {
		tr.t.Fatalf("%d spans %q below %s, want one", len(found), name, parent)
	}
	return found[0]
}

// orphan returns the name of a span whose parent is neither in the trace nor the caller's span, ""
// if there is none.
func (tr tree) orphan() string {
	known := map[string]bool{tr.from.span: true}
	for _, s := range tr.spans {
		known[s.ID] = true
	}
	for _, s := range tr.spans {
		if !known[s.Parent] {
			return s.Name
		}
	}
	return ""
}

func (tr tree) String() string {
	var b strings.Builder
	for _, s := range tr.spans {
		fmt.Fprintf(&b, "%s %-45s %s below %s %v\n", s.Instance, s.Name, s.ID, s.Parent, s.Attrs)
	}
	return b.String()
}

const callSpan = "imagebuilder.v1.ImageBuilder/BuildImage"

// Test_Tracing_ThroughFollower requests a build at a follower. All spans of all involved nodes
// belong to one trace, below the caller's span.
func Test_Tracing_ThroughFollower(t *testing.T) {
	t.Parallel()
	collector := tracetest.Start(t)
	reg := registrytest.Start(t, registrytest.Options{})
	reg.Push(t, "library/a:1", registrytest.RandomImage(t, 2, 1000))
	c := harness.StartCluster(t, 3, reg.Addr, tracingConfig(collector))
	awaitTraceLevel(t, c)
	leader := c.Leader()
	follower := c.Others(leader)[0]
	from := newCaller(1)
	req := &imagebuilderv1.BuildImageRequest{
		Source: harness.RefSource(reg.Addr + "/library/a:1"), Requester: "r", Secrets: map[string][]byte{"s": []byte(traceSecret)},
		Auth:    &imagebuilderv1.RegistryAuth{AllowAll: true, Additional: map[string]*imagebuilderv1.BasicAuth{"other.example.com": {Username: "u", Password: traceSecret}}},
		GitAuth: &imagebuilderv1.BasicAuth{Username: "u", Password: traceSecret},
	}
	res, err := follower.Native.BuildImage(from.context(t.Context()), req)
	if err != nil {
		t.Fatal(err)
	}
	b := follower.Wait(t, t.Context(), res.Build.Id)
	if b.GetPhase() != builds.Succeeded {
		t.Fatalf("the build ended %s: %s", b.GetPhase(), b.GetMessage())
	}
	tr := awaitTree(t, collector, from, "the trace is whole", func(tr tree) bool {
		for _, name := range []string{callSpan, "assign", "attempt", "build"} {
			if len(tr.named(name)) != 1 {
				return false
			}
		}
		return tr.orphan() == "" && len(tr.named("cluster.v1.Peer/Propose"))%2 == 0 && len(tr.named("raft apply")) == 4 // one for each commit
	})

	call := tr.one(callSpan, from.span)
	commit := tr.one("commit CreateBuild", call.ID)
	sent := tr.one("cluster.v1.Peer/Propose", commit.ID)
	got := tr.one("cluster.v1.Peer/Propose", sent.ID)
	apply := tr.one("raft apply", got.ID)
	attempt := tr.one("attempt", call.ID)
	run := tr.one("run", attempt.ID)
	publish := tr.one("publish", attempt.ID)
	for _, x := range []struct {
		span tracetest.Span
		on   *harness.Node
	}{
		{call, follower},
		{tr.one("plan", call.ID), follower},
		{commit, follower},
		{sent, follower},
		{got, leader},
		{apply, leader},
		{tr.one("queued", call.ID), leader},
		{tr.one("assign", call.ID), leader},
		{attempt, owner(c, b)},
		{run, owner(c, b)},
		{tr.one("registry copy", run.ID), owner(c, b)},
		{publish, owner(c, b)},
		{tr.one("registry tag", publish.ID), owner(c, b)},
		{tr.one("seal log", attempt.ID), owner(c, b)},
		{tr.one("commit FinishAttempt", attempt.ID), owner(c, b)},
		{tr.one("build", call.ID), owner(c, b)},
	} {
		if x.span.Instance != x.on.Name || x.span.Failed {
			t.Errorf("span %q is of %s (failed: %t), want of %s", x.span.Name, x.span.Instance, x.span.Failed, x.on.Name)
		}
	}
	for key, want := range map[string]string{
		"image_builder.build": b.Id, "image_builder.ref": b.Ref, "image_builder.node": b.Attempts[0].Owner, "image_builder.runtime": "copy", "image_builder.phase": "PHASE_SUCCEEDED",
	} {
		if got := attempt.Attrs[key]; got != want {
			t.Errorf("the attempt's %s is %q, want %q", key, got, want)
		}
	}
	for _, s := range collector.Spans("") {
		if s.Trace != from.trace {
			t.Errorf("span %q of %s begins another trace", s.Name, s.Instance)
		}
	}
	if strings.Contains(string(collector.Raw()), traceSecret) {
		t.Error("what was exported holds a secret of the request")
	}
	if log := owner(c, b).Log(); !strings.Contains(log, `"trace_id":"`+from.trace+`"`) {
		t.Error("no line of the owner's log has the trace id")
	}
}

// owner returns the node of the last attempt of a build.
func owner(c *harness.Cluster, b *imagebuilderv1.Build) *harness.Node {
	name := builds.LastAttempt(b).Owner
	return c.Nodes[slices.IndexFunc(c.Nodes, func(n *harness.Node) bool { return n.Name == name })]
}

// Test_Tracing_LeaderKilled kills the leader while it owns a build. The trace is in the replicated
// record: the decision of the next leader and the next attempt, on another node, belong to the same
// trace.
func Test_Tracing_LeaderKilled(t *testing.T) {
	t.Parallel()
	collector := tracetest.Start(t)
	reg := registrytest.Start(t, registrytest.Options{})
	proxy := registrytest.NewProxy(t, reg)
	const n = 6 // builds, so that each of the three nodes gets some
	for i := range n {
		reg.Push(t, fmt.Sprintf("library/a:%d", i), registrytest.RandomImage(t, 1, 1000))
	}
	release := proxy.Hold(registrytest.Blobs)
	c := harness.StartCluster(t, 3, proxy.Addr, tracingConfig(collector))
	awaitTraceLevel(t, c)
	leader := c.Leader()
	follower := c.Others(leader)[0]
	callers := map[string]caller{} // by build
	var asked []string
	for i := range n {
		from := newCaller(10 + i)
		res, err := follower.Native.BuildImage(from.context(t.Context()), &imagebuilderv1.BuildImageRequest{Source: harness.RefSource(fmt.Sprintf("%s/library/a:%d", proxy.Addr, i))})
		if err != nil {
			t.Fatal(err)
		}
		callers[res.Build.Id] = from
		asked = append(asked, res.Build.Id)
	}
	var mine string // a build that the leader runs
	testkit.Eventually(t, 60*time.Second, "the leader runs a build", func() bool {
		for _, id := range asked {
			res, err := follower.Native.BuildStatus(t.Context(), &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Id{Id: id}})
			if err == nil && res.Build.Phase == builds.Running && owner(c, res.Build) == leader {
				mine = id
			}
		}
		return mine != ""
	})
	leader.Kill()
	release()
	for _, id := range asked {
		if b := follower.Wait(t, t.Context(), id); b.GetPhase() != builds.Succeeded {
			t.Fatalf("build %s ended %s: %s", id, b.GetPhase(), b.GetMessage())
		}
	}
	b := follower.Wait(t, t.Context(), mine)
	from := callers[mine]
	tr := awaitTree(t, collector, from, "the next attempt is traced", func(tr tree) bool {
		return len(tr.named("build")) == 1 && len(tr.named("attempt")) == 1 && slices.ContainsFunc(tr.named("assign"), func(s tracetest.Span) bool { return s.Attrs["image_builder.attempt"] == "2" })
	})
	call := tr.one(callSpan, from.span)
	attempt := tr.one("attempt", call.ID)
	if attempt.Attrs["image_builder.attempt"] != "2" || attempt.Instance != owner(c, b).Name || attempt.Instance == leader.Name {
		t.Errorf("the attempt is %+v", attempt)
	}
	tr.one("run", attempt.ID)
	for _, s := range tr.named("assign") {
		if s.Parent != call.ID || s.Attrs["image_builder.attempt"] == "2" && s.Instance == leader.Name {
			t.Errorf("the decision is %+v", s)
		}
	}
}

// Test_Tracing_GitpodAndAttached checks that Gitpod's Build is traced like the native call. A call
// that joins the build has its own trace, with a link to the trace of the build.
func Test_Tracing_GitpodAndAttached(t *testing.T) {
	t.Parallel()
	collector := tracetest.Start(t)
	reg := registrytest.Start(t, registrytest.Options{})
	proxy := registrytest.NewProxy(t, reg)
	reg.Push(t, "library/a:1", registrytest.RandomImage(t, 1, 1000))
	release := proxy.Hold(registrytest.Blobs)
	n := harness.Start(t, proxy.Addr, tracingConfig(collector))
	testkit.Eventually(t, 30*time.Second, "the node stores traces", func() bool {
		res, err := n.Members(t.Context(), false)
		return err == nil && res.FeatureLevel >= 3
	})
	first, second := newCaller(40), newCaller(41)
	stream, err := n.Gitpod.Build(first.context(t.Context()), &builder.BuildRequest{Source: harness.GitpodRef(proxy.Addr + "/library/a:1")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	res, err := n.Native.BuildImage(second.context(t.Context()), &imagebuilderv1.BuildImageRequest{Source: harness.RefSource(proxy.Addr + "/library/a:1")})
	if err != nil || !res.Attached {
		t.Fatalf("the second call did not join the build: %v, %v", res, err)
	}
	release()
	for err == nil {
		_, err = stream.Recv()
	}
	tr := awaitTree(t, collector, first, "the build is traced", func(tr tree) bool {
		return len(tr.named("builder.ImageBuilder/Build")) == 1 && len(tr.named("attempt")) == 1 && len(tr.named("build")) == 1 && tr.orphan() == ""
	})
	call := tr.one("builder.ImageBuilder/Build", first.span)
	if attempt := tr.one("attempt", call.ID); attempt.Attrs["image_builder.build"] != res.Build.Id {
		t.Errorf("the attempt is %+v", attempt)
	}
	joined := awaitTree(t, collector, second, "the second call is traced", func(tr tree) bool { return len(tr.named(callSpan)) == 1 && tr.orphan() == "" })
	if call := joined.one(callSpan, second.span); !slices.Equal(call.Links, []string{first.trace}) || call.Attrs["image_builder.attached"] != "true" {
		t.Errorf("the call that joined is %+v", call)
	}
	if len(joined.named("attempt")) != 0 {
		t.Error("the attempt is in the trace of the second call")
	}
}

// Test_Tracing_CollectorHangs exports to a collector that accepts connections and never responds.
// Spans are lost, but no build fails.
func Test_Tracing_CollectorHangs(t *testing.T) {
	t.Parallel()
	collector := tracetest.Start(t)
	collector.Hang(true)
	reg := registrytest.Start(t, registrytest.Options{})
	reg.Push(t, "library/a:1", registrytest.RandomImage(t, 1, 1000))
	n := harness.Start(t, reg.Addr, tracingConfig(collector))
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for range 20 {
		res, err := n.Native.BuildImage(ctx, &imagebuilderv1.BuildImageRequest{Source: harness.RefSource(reg.Addr + "/library/a:1"), Force: true})
		if err != nil {
			t.Fatal(err)
		}
		if b := n.Wait(t, ctx, res.Build.Id); b.GetPhase() != builds.Succeeded {
			t.Fatalf("the build ended %s: %s", b.GetPhase(), b.GetMessage())
		}
	}
	testkit.Eventually(t, 60*time.Second, "the collector was called, and spans that it refused are counted", func() bool {
		body, _ := n.Get("http://" + n.Metrics + "/metrics")
		return collector.Calls() > 0 && strings.Contains(body, "\nimage_builder_trace_spans_dropped_total{reason=\"collector\"} ") &&
			!strings.Contains(body, "\nimage_builder_trace_spans_dropped_total{reason=\"collector\"} 0\n")
	})
	began := time.Now()
	if s := n.Stop(); !s.Success() || time.Since(began) > 30*time.Second {
		t.Errorf("the node ended %v after %s", s, time.Since(began))
	}
}

// Test_Tracing_Dockerfile builds on BuildKit. The spans of the node, and those that a daemon with
// tracing exports, belong to the trace of the job that runs the command (TRACEPARENT). The exported
// spans of a failing step have none of its arguments, although its error contains its command line.
func Test_Tracing_Dockerfile(t *testing.T) {
	ours, theirs := tracetest.Start(t), tracetest.Start(t)
	// The daemon reads these variables, nodes do not.
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+theirs.Addr)
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
	w := buildkittest.Start(t, tracingConfig(ours))
	testkit.Eventually(t, 30*time.Second, "the node stores traces", func() bool {
		res, err := w.Members(t.Context(), false)
		return err == nil && res.FeatureLevel >= 3
	})
	from := newCaller(30)
	t.Setenv("TRACEPARENT", "00-"+from.trace+"-"+from.span+"-01")
	build := func(step string) int {
		dir := w.Context(t, "FROM base\nARG TOKEN\nRUN "+step+"\n", nil)
		out, errOut, status := harness.CLI(t, w.GRPC, "build", dir, "--build-arg", "TOKEN="+traceSecret)
		t.Logf("status %d: %s%s", status, out, errOut)
		return status
	}
	if build("echo made-it") != 0 {
		t.Fatal("the build failed")
	}
	if build("echo "+traceSecret+" && false") == 0 {
		t.Fatal("a step that fails was no failure")
	}
	tr := awaitTree(t, ours, from, "both builds are traced", func(tr tree) bool {
		return len(tr.named("build")) == 2 && len(tr.named("attempt")) == 2 && len(tr.named(callSpan)) == 2
	})
	// The daemon calls this node back, below its own spans.
	testkit.Eventually(t, 60*time.Second, "the spans of both are one tree", func() bool {
		both := tree{t, from, append(ours.Spans(from.trace), theirs.Spans(from.trace)...)}
		return both.orphan() == ""
	})
	tr.spans = ours.Spans(from.trace)
	for _, call := range tr.named(callSpan) {
		attempt := tr.one("attempt", call.ID)
		solve := tr.one("buildkit solve", tr.one("run", attempt.ID).ID)
		if failed := attempt.Attrs["image_builder.phase"] == "PHASE_FAILED"; call.Parent != from.span || solve.Failed != failed || attempt.Failed != failed {
			t.Errorf("call below %s; attempt %v, failed %t, its solve %t", call.Parent, attempt.Attrs, attempt.Failed, solve.Failed)
		}
		sent := tr.one("moby.buildkit.v1.Control/Solve", solve.ID)
		testkit.Eventually(t, 60*time.Second, "the daemon's spans are below ours", func() bool {
			return slices.ContainsFunc(theirs.Spans(from.trace), func(s tracetest.Span) bool { return s.Parent == sent.ID })
		})
	}
	if strings.Contains(string(ours.Raw()), traceSecret) {
		t.Error("what was exported holds an argument of the build")
	}
	if spans := ours.Spans(from.trace); len(spans) > 100 {
		t.Errorf("%d spans of two builds", len(spans))
	}
}
