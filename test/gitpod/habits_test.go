package gitpod

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/proto/builder"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager/wsmanagertest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// readLogs reads a log through Gitpod's API to its end.
func readLogs(ctx context.Context, n *harness.Node, req *builder.LogsRequest) (string, error) {
	stream, err := n.Gitpod.Logs(ctx, req)
	if err != nil {
		return "", err
	}
	var out []byte
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return string(out), nil
		}
		if err != nil {
			return string(out), err
		}
		out = append(out, m.Content...)
	}
}

// Test_Contract_Logs reads the log of a build whose output contains the names of its images, by ref
// and by id, during the build and after its end, through every node. The log does not have these
// names, and the stream ends with OK at the end of the build. The address in log_info returns the
// same log as JSON.
func Test_Contract_Logs(t *testing.T) {
	in := newInstall(t)
	workspaces, bases := in.reg.Addr+"/workspace-images", in.reg.Addr+"/base-images"
	release := make(chan struct{})
	in.work = func(id string, ws *wsmanagertest.Workspace) {
		notes := in.m.Status(id).GetMetadata().GetAnnotations()
		_, _ = fmt.Fprintf(ws, "begin\npushing %s and %s\nto %s or %s\n", notes["ref"], notes["baseref"], workspaces, bases)
		in.await(release)
		_, _ = fmt.Fprintf(ws, "last of %s\n", notes["ref"])
	}
	c := in.cluster(3, nil)
	ctx := testkit.Context(t, 2*time.Minute)
	begun := first(t, c.Nodes[0].Gitpod, dockerfile(1))
	info := begun.GetInfo()
	type end struct {
		text string
		err  error
	}
	var reads []chan end
	read := func() {
		for _, n := range c.Nodes {
			for _, req := range []*builder.LogsRequest{{BuildRef: begun.Ref}, {BuildId: info.BuildId}, {BuildRef: begun.Ref, Censored: true}} {
				done := make(chan end, 1)
				go func() {
					text, err := readLogs(ctx, n, req)
					done <- end{text, err}
				}()
				reads = append(reads, done)
			}
		}
	}
	testkit.Eventually(t, 30*time.Second, "the workspace runs", func() bool { k, _ := in.total(); return k == 1 })
	read()
	close(release)
	if b := c.Nodes[0].Wait(t, ctx, info.BuildId); b.GetPhase().String() != "PHASE_SUCCEEDED" {
		t.Fatalf("the build ended with %s: %s", b.GetPhase(), b.GetMessage())
	}
	read()
	var texts []string
	for _, r := range reads {
		e := <-r
		if e.err != nil {
			t.Errorf("a reader: %v", e.err)
		}
		texts = append(texts, e.text)
	}
	if slices.Sort(texts); texts[0] != texts[len(texts)-1] {
		t.Errorf("readers got different logs: %q and %q", texts[0], texts[len(texts)-1])
	}
	text := texts[0]
	for _, secret := range []string{begun.Ref, begun.BaseRef, workspaces, bases} {
		if strings.Contains(text, secret) {
			t.Errorf("the log contains %s:\n%s", secret, text)
		}
	}
	if !strings.Contains(text, "begin\n") || !strings.Contains(text, "pushing ") || !strings.Contains(text, "last of ") {
		t.Errorf("the log lacks lines:\n%s", text)
	}

	// JSON, from another node than that of log_info.
	var tasks struct {
		Result struct {
			Tasks []struct{ ID, State, Terminal string }
		}
	}
	at := in.logs[c.Nodes[1]] + "/builds/" + info.BuildId + "/_supervisor/v1/"
	if code := getJSON(t, ctx, at+"status/tasks", info.GetLogInfo().GetHeaders(), func(d *json.Decoder) error { return d.Decode(&tasks) }); code != http.StatusOK || len(tasks.Result.Tasks) != 1 || tasks.Result.Tasks[0].State != "closed" {
		t.Fatalf("status/tasks: %d, %+v", code, tasks)
	}
	for _, path := range []string{"terminal/listen/" + tasks.Result.Tasks[0].Terminal, "task/listen/" + tasks.Result.Tasks[0].ID + "/output"} {
		var got []byte
		code := getJSON(t, ctx, at+path, info.GetLogInfo().GetHeaders(), func(d *json.Decoder) error {
			var v struct{ Result struct{ Data []byte } }
			err := d.Decode(&v)
			got = append(got, v.Result.Data...)
			return err
		})
		if code != http.StatusOK || string(got) != text {
			t.Errorf("%s: %d, %q, want the log", path, code, got)
		}
		if code := getJSON(t, ctx, at+path, nil, nil); code != http.StatusUnauthorized {
			t.Errorf("%s without the token: %d", path, code)
		}
	}
}

// getJSON decodes the values of a response until its end, and returns the status code.
func getJSON(t *testing.T, ctx context.Context, url string, headers map[string]string, decode func(*json.Decoder) error) int {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range headers {
		req.Header.Set(k, v)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	for d := json.NewDecoder(bufio.NewReader(res.Body)); decode != nil; {
		if err := decode(d); err != nil {
			if !errors.Is(err, io.EOF) {
				t.Errorf("%s: %v", url, err)
			}
			break
		}
	}
	return res.StatusCode
}

// Test_Contract_Port tests the gRPC port apart from the calls: reflection, large messages, pings of
// idle connections, and the buckets of metrics.
func Test_Contract_Port(t *testing.T) {
	t.Parallel()
	n := newInstall(t).node(nil)
	ctx := testkit.Context(t, 2*time.Minute)

	// This connection is idle until the check at the end.
	idle, err := grpc.NewClient(n.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 20 * time.Second, PermitWithoutStream: true}))
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	if _, err := builder.NewImageBuilderClient(idle).ListBuilds(ctx, &builder.ListBuildsRequest{}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()

	for _, version := range []string{"v1", "v1alpha"} { // both have the same messages
		names, err := services(ctx, n.Conn, version)
		if err != nil || !slices.Contains(names, "builder.ImageBuilder") || !slices.Contains(names, "grpc.health.v1.Health") {
			t.Errorf("reflection %s: %v, %v", version, names, err)
		}
	}

	for size, want := range map[int]codes.Code{15 << 20: codes.InvalidArgument, 17 << 20: codes.ResourceExhausted} {
		_, err := n.Gitpod.ResolveBaseImage(ctx, &builder.ResolveBaseImageRequest{Ref: strings.Repeat("a", size)})
		if status.Code(err) != want || len(err.Error()) > 4096 {
			t.Errorf("a request of %d MiB: %.200v, want %s", size>>20, err, want)
		}
	}

	body, _ := n.Get("http://" + n.Metrics + "/metrics")
	for _, le := range []string{"0.005", "0.025", "0.05", "0.1", "0.5", "1", "2.5", "5", "30", "60", "120", "240", "600", "+Inf"} {
		if !strings.Contains(body, `grpc_server_handling_seconds_bucket{grpc_method="ListBuilds",grpc_service="builder.ImageBuilder",grpc_type="unary",le="`+le+`"}`) {
			t.Errorf("grpc_server_handling_seconds lacks the bucket %s", le)
		}
	}
	if got := strings.Count(body, `grpc_server_handling_seconds_bucket{grpc_method="ListBuilds",grpc_service="builder.ImageBuilder"`); got != 14 {
		t.Errorf("ListBuilds has %d buckets, want 14", got)
	}
	for _, m := range []string{"grpc_server_started_total", "grpc_server_handled_total", "grpc_server_msg_received_total", "grpc_server_msg_sent_total"} {
		if !strings.Contains(body, m+`{`) {
			t.Errorf("metrics lack %s", m)
		}
	}
	for _, m := range []string{
		"gitpod_image_builder_builds_started_total 0", `gitpod_image_builder_builds_done_total{success="true"} 0`, `gitpod_image_builder_builds_done_total{success="false"} 0`,
		`gitpod_logs_total{level="info"}`, "gitpod_server_version{version=", "go_goroutines", "process_cpu_seconds_total",
	} {
		if !strings.Contains(body, m) {
			t.Errorf("metrics lack %s", m)
		}
	}

	// By default, a gRPC server ends a connection after three such pings.
	wait, cancel := context.WithDeadline(ctx, began.Add(45*time.Second))
	defer cancel()
	if idle.WaitForStateChange(wait, connectivity.Ready) {
		t.Errorf("the idle connection is %s after %s", idle.GetState(), time.Since(began).Round(time.Second))
	}
}

// services returns the services of a server, by reflection.
func services(ctx context.Context, conn *grpc.ClientConn, version string) (names []string, err error) {
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/grpc.reflection."+version+".ServerReflection/ServerReflectionInfo")
	if err != nil {
		return nil, err
	}
	if err := s.SendMsg(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		return nil, err
	}
	res := &reflectionpb.ServerReflectionResponse{}
	if err := s.RecvMsg(res); err != nil {
		return nil, err
	}
	for _, x := range res.GetListServicesResponse().GetService() {
		names = append(names, x.Name)
	}
	return names, s.CloseSend()
}

// Test_Contract_ClientCertificates starts a node that verifies client certificates if there are
// any, and a node that requires them.
func Test_Contract_ClientCertificates(t *testing.T) {
	in := newInstall(t)
	ours, theirs := wsmanagertest.NewAuthority(t), wsmanagertest.NewAuthority(t)
	cert, key := ours.Issue("image-builder-mk3")
	pair := func(a *wsmanagertest.Authority) []tls.Certificate {
		p, err := tls.LoadX509KeyPair(a.Issue("server"))
		if err != nil {
			t.Fatal(err)
		}
		return []tls.Certificate{p}
	}
	for mode, want := range map[string][3]bool{ // no certificate, one of our CA, one of another CA
		"":        {true, true, false},
		"require": {false, true, false},
	} {
		conf := map[string]any{"caPath": ours.CA, "certPath": cert, "keyPath": key}
		if mode != "" {
			conf["clientAuth"] = mode
		}
		n := harness.New(t, t.TempDir(), in.reg.Addr, in.config(nil))
		n.Override(harness.Config{"server": map[string]any{"services": map[string]any{"grpc": map[string]any{"tls": conf}}}})
		in.logPort(n)
		n.Run()
		for i, shown := range [][]tls.Certificate{nil, pair(ours), pair(theirs)} {
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				client := &tls.Config{RootCAs: ours.Pool(), ServerName: "image-builder-mk3", MinVersion: version, MaxVersion: version}
				if len(shown) > 0 { // send it even if the server does not name its CA
					client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &shown[0], nil }
				}
				conn, err := grpc.NewClient(n.GRPC, grpc.WithTransportCredentials(credentials.NewTLS(client)))
				if err != nil {
					t.Fatal(err)
				}
				_, err = builder.NewImageBuilderClient(conn).ListBuilds(testkit.Context(t, 20*time.Second), &builder.ListBuildsRequest{})
				_ = conn.Close()
				if (err == nil) != want[i] {
					t.Errorf("clientAuth %q, client %d, TLS %x: %v, want success: %v", mode, i, version, err, want[i])
				}
			}
		}
		n.Stop()
	}
}

// Test_Contract_RefusesToStartWithoutKey: a node of a cluster with several nodes does not start
// without the common sealing keys.
func Test_Contract_RefusesToStartWithoutKey(t *testing.T) {
	in := newInstall(t)
	c := harness.NewCluster(t, 3, in.reg.Addr, in.config(nil))
	n := c.Nodes[0]
	n.Override(harness.Config{"sealing": nil})
	in.logPort(n)
	n.Launch()
	select {
	case <-n.Exited():
	case <-time.After(time.Minute):
		t.Fatal("the node runs")
	}
	if n.ExitCode() == 0 || !strings.Contains(n.Log(), "sealing.keyFile") || !strings.Contains(n.Log(), "cluster keys") {
		t.Errorf("status %d:\n%s", n.ExitCode(), n.Log())
	}
	if _, err := os.Stat(n.Dir + "/data.sealing-key.json"); err == nil {
		t.Error("the node made its own key")
	}
	if bytes.Contains([]byte(n.Log()), []byte("panic")) {
		t.Error("the node panicked")
	}
}
