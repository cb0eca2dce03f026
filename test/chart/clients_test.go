//go:build kubernetes

package chart

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/image-builder-ha/image-builder/client"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/testkit"
	"github.com/image-builder-ha/image-builder/verify"
)

// servers returns the addresses of nodes for clients: the names of their pods, which dial resolves.
func servers(n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf("passthrough:///%s-%d:8080", release, i))
	}
	return out
}

// dial connects to a pod by its name.
func dial(ctx context.Context, address string) (net.Conn, error) {
	name, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	p, err := kube.Client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if p.Status.PodIP == "" {
		return nil, fmt.Errorf("the pod %s has no address yet", name)
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", net.JoinHostPort(p.Status.PodIP, port))
}

func (s *install) client() *client.Client {
	s.t.Helper()
	c, err := client.New(client.Options{Servers: servers(3), Patience: time.Minute, Dial: []grpc.DialOption{grpc.WithContextDialer(dial)}})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// load requests builds until stop is called. It runs the checker in rounds, and each round must
// keep all promises. stop waits for the last round.
func (s *install) load(nodes int) (stop func()) {
	s.t.Helper()
	looker := verify.DockerLooker{}
	instant, err := looker.Prepare(s.t.Context(), s.reg.Addr+"/library/verify", 30, 1, 1024)
	if err != nil {
		s.t.Fatal(err)
	}
	o := verify.Options{
		Servers: servers(nodes), Dial: []grpc.DialOption{grpc.WithContextDialer(dial)}, Duration: 20 * time.Second, Rate: 5, Readers: 1,
		Instant: instant, Images: instant, Looker: looker, Patience: 2 * time.Minute, Auth: &imagebuilderv1.RegistryAuth{AllowBaseRepository: true},
	}
	enough, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for round := 1; ; round++ {
			e, err := verify.Run(s.t.Context(), o)
			if err != nil {
				s.t.Error(err)
				return
			}
			r := verify.NewReport(e)
			var b bytes.Buffer
			if err := r.Text(&b); err != nil {
				s.t.Error(err)
			}
			if !r.OK || r.Writes.Failed > 0 || r.Counts.Ends["failed"] > 0 {
				s.t.Errorf("round %d: not all promises were kept:\n%s", round, b.String())
			}
			s.t.Logf("round %d: %d builds, %d calls failed, longest outage %s", round, r.Counts.Acknowledged, r.Writes.Failed, r.Writes.LongestOutage)
			select {
			case <-enough:
				return
			default:
			}
		}
	}()
	return func() {
		close(enough)
		<-done
	}
}

// readLog reads the log of a build: to its end with follow, or else its current content.
func readLog(t *testing.T, c *client.Client, id string, follow bool) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var b strings.Builder
	err := c.Logs(ctx, client.LogsRequest{Build: id, Follow: follow}, func(ch client.Chunk) error {
		b.Write(ch.Content)
		return nil
	})
	if err != nil && follow {
		t.Errorf("read the log of %s: %v", id, err)
	}
	return b.String()
}

// upload uploads a build context with a Dockerfile, and returns its digest.
func (s *install) upload(dockerfile string) string {
	s.t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "Dockerfile", Mode: 0o644, Size: int64(len(dockerfile))}); err != nil {
		s.t.Fatal(err)
	}
	if _, err := w.Write([]byte(dockerfile)); err != nil {
		s.t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		s.t.Fatal(err)
	}
	stream, err := s.c.UploadContext(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	// CloseAndRecv returns the error of Send.
	_ = stream.Send(&imagebuilderv1.UploadContextRequest{Digest: fmt.Sprintf("sha256:%x", sha256.Sum256(b.Bytes())), Chunk: b.Bytes()})
	res, err := stream.CloseAndRecv()
	if err != nil {
		s.t.Fatal(err)
	}
	return res.Digest
}

// long starts builds in pods. Each prints a line every half second.
func (s *install) long(name string, n, lines int) (ids []string) {
	s.t.Helper()
	context := s.upload(fmt.Sprintf("FROM %s\nARG WHO\nRUN for i in $(seq %d); do echo $WHO-line-$i.; sleep 0.5; done\n", s.base, lines))
	for i := range n {
		res, err := s.c.BuildImage(s.t.Context(), &imagebuilderv1.BuildImageRequest{
			RequestId: fmt.Sprintf("%s-%d", name, i), Requester: "test",
			Source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Dockerfile{Dockerfile: &imagebuilderv1.DockerfileSource{
				Context:   &imagebuilderv1.DockerfileSource_Upload{Upload: &imagebuilderv1.UploadedContext{Digest: context}},
				BuildArgs: map[string]string{"WHO": fmt.Sprintf("%s-%d", name, i)},
			}}},
		})
		if err != nil {
			s.t.Fatal(err)
		}
		ids = append(ids, res.Build.Id)
	}
	return ids
}

// writing waits until n of the builds have printed a line.
func (s *install) writing(ids []string, name string, n int) {
	s.t.Helper()
	testkit.Eventually(s.t, 4*time.Minute, fmt.Sprintf("%d builds write", n), func() bool {
		writing := 0
		for i, id := range ids {
			if strings.Contains(s.log(id, false), fmt.Sprintf(" %s-%d-line-", name, i)) {
				writing++
			}
		}
		return writing >= n
	})
}

// complete waits for the end of all builds. They must succeed, and their logs must have all lines.
func (s *install) complete(ids []string, name string, lines int) {
	s.t.Helper()
	for i, id := range ids {
		log := s.log(id, true)
		res, err := s.c.BuildStatus(s.t.Context(), &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Id{Id: id}})
		if err != nil {
			s.t.Fatal(err)
		}
		if b := res.Build; b.Phase != imagebuilderv1.Phase_PHASE_SUCCEEDED || len(b.Attempts) != 1 {
			s.t.Errorf("build %d: %s after %d attempts: %s", i, b.Phase, len(b.Attempts), b.Message)
		}
		for l := 1; l <= lines; l++ {
			if n := strings.Count(log, fmt.Sprintf(" %s-%d-line-%d.\n", name, i, l)); n != 1 {
				s.t.Errorf("build %d: line %d occurs %d times in the log:\n%s", i, l, n, log)
				break
			}
		}
	}
}

// log is readLog with the client of the install.
func (s *install) log(id string, follow bool) string {
	s.t.Helper()
	return readLog(s.t, s.c, id, follow)
}

// phases returns the phases of all builds in the cluster, by id.
func (s *install) phases() map[string]string {
	s.t.Helper()
	all := map[string]string{}
	req := &imagebuilderv1.ListBuildsRequest{PageSize: 1000, Linearizable: true}
	for {
		res, err := s.c.ListBuilds(s.t.Context(), req)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, b := range res.Builds {
			all[b.Id] = b.Phase.String()
		}
		if req.PageToken = res.NextPageToken; req.PageToken == "" {
			return all
		}
	}
}
