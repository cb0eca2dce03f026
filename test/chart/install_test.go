//go:build kubernetes

package chart

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/image-builder-ha/image-builder/client"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/kubelet"
	"github.com/image-builder-ha/image-builder/verify"
)

const (
	release      = "image-builder"
	namespace    = "image-builder"
	builds       = "image-builder-builds"
	kubectlImage = "localhost/kubectl:1"
	volumes      = 5
)

// repository is the folder of this module.
const repository = "../.."

// install is one release of the chart.
type install struct {
	t    *testing.T
	reg  *registrytest.Registry
	base string // an image with a shell
	c    *client.Client
}

// newInstall builds the image of the service, by the service, and installs the
// chart with it.
func newInstall(t *testing.T) *install {
	t.Helper()
	s := &install{t: t, reg: registrytest.Start(t, registrytest.Options{Addr: kubelet.PlainRegistry})}
	s.reg.Push(t, "library/busybox:1", registrytest.BusyboxImage(t, // what the scripts of the chart and of builds need
		"base64", "cat", "chmod", "cmp", "cp", "echo", "install", "mkdir", "mv", "printf", "seq", "sleep", "tr", "true", "wget"))
	s.base = s.reg.Addr + "/library/busybox:1"
	s.buildImages("v1", "v2")
	s.prepare()
	t.Cleanup(s.explain)
	s.helm("install", release, "deploy/helm/image-builder", "--values", s.values(), "--set", "image.tag=v1", "--wait", "--timeout", "3m")
	s.c = s.client()
	return s
}

// buildImages lets a node of the service build its image, in pods: the last
// stage of deploy/image/Dockerfile, on a base with a shell, and with the binary
// that this test has compiled in place of the stage that compiles.
func (s *install) buildImages(tags ...string) {
	s.t.Helper()
	shipped, err := os.ReadFile(filepath.Join(repository, "deploy/image/Dockerfile"))
	if err != nil {
		s.t.Fatal(err)
	}
	_, last, ok := strings.Cut(string(shipped), "FROM docker.io/library/debian:12-slim\n")
	if !ok {
		s.t.Fatal("the last stage of deploy/image/Dockerfile is not found")
	}
	dockerfile := fmt.Sprintf(`FROM %[1]s AS build
COPY image-builder /out/image-builder
RUN mkdir -p /etc/ssl/certs /out/data && echo none > /etc/ssl/certs/ca-certificates.crt && chmod 0700 /out/data && chmod 0755 /out/image-builder
RUN /out/image-builder sbom > /out/sbom.spdx.json
FROM %[1]s
ARG BUILD
ENV BUILD=$BUILD PATH=/usr/local/bin:/bin
%[2]s`, s.base, last)
	dir := s.t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Link(kube.Binary, filepath.Join(dir, "image-builder")); err != nil {
		s.t.Fatal(err)
	}
	ns := "first"
	s.create(ns)
	n := harness.Start(s.t, s.reg.Addr, harness.Config{
		"registry": map[string]any{"allowLoopback": false, "insecureHosts": []string{s.reg.Addr}},
		"runtimes": map[string]any{"dockerfile": "kubernetes"},
		"kubernetes": map[string]any{
			"namespace": ns, "install": "first", "kubeconfig": kube.AdminKubeconfig(), "profile": "privileged", "imagePullPolicy": "Never",
			"images": map[string]any{"worker": kubelet.WorkerImage, "buildkit": kubelet.BuildKitImage},
		},
	})
	for _, tag := range tags {
		out := s.run(kube.Binary, "build", dir, "--server", n.GRPC, "--build-arg", "BUILD="+tag, "--tag", s.reg.Addr+"/base-images:"+tag, "--progress", "plain")
		s.t.Logf("the image %s:\n%s", tag, out)
	}
	n.Stop()
}

// prepare makes what an operator has to: namespaces, volumes, the image of
// kubectl.
func (s *install) prepare() {
	s.t.Helper()
	s.create(namespace)
	s.create(builds)
	if err := kube.ImportProgram(s.t.Context(), kubectlImage, kubelet.Program("kubectl")); err != nil {
		s.t.Fatal(err)
	}
	for i := range volumes {
		dir := filepath.Join(kube.Dir, "volumes", fmt.Sprint(i))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			s.t.Fatal(err)
		}
		if err := os.Chown(dir, 65532, 65532); err != nil {
			s.t.Fatal(err)
		}
		if _, err := kube.Client.CoreV1().PersistentVolumes().Create(s.t.Context(), &corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("disk-%d", i)},
			Spec: corev1.PersistentVolumeSpec{
				Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				StorageClassName: "disks", PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
				PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}},
			},
		}, metav1.CreateOptions{}); err != nil {
			s.t.Fatal(err)
		}
	}
}

// create makes a namespace whose pods can have an account.
func (s *install) create(name string) {
	s.t.Helper()
	if _, err := kube.Client.CoreV1().Namespaces().Create(s.t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
	harness.Eventually(s.t, time.Minute, "pods of the namespace have an account", func() bool {
		_, err := kube.Client.CoreV1().ServiceAccounts(name).Get(s.t.Context(), "default", metav1.GetOptions{})
		return err == nil
	})
}

// values is the operator's values file. There is one machine, no DNS, no
// provisioner of volumes.
func (s *install) values() string {
	s.t.Helper()
	type m = map[string]any
	raw, err := json.Marshal(m{
		"image":       m{"repository": s.reg.Addr + "/base-images"},
		"config":      m{"orchestrator": m{"baseImageRepository": s.reg.Addr + "/base", "workspaceImageRepository": s.reg.Addr + "/workspace"}, "registry": m{"insecureHosts": []string{s.reg.Addr}}},
		"cluster":     m{"peersFrom": "endpoints", "leaderLabel": true, "zoneFrom": "none"},
		"certs":       m{"builtin": m{"kubectlImage": kubectlImage}},
		"kubernetes":  m{"enabled": true, "namespace": builds, "profile": "privileged", "buildkitImage": kubelet.BuildKitImage},
		"persistence": m{"size": "1Gi", "storageClass": "disks"},
		"resources":   m{"requests": m{"cpu": "50m", "memory": "64Mi"}, "limits": m{"memory": "1Gi"}},
		"goMemLimit":  "800MiB", "antiAffinity": "preferred", "zoneSpread": m{"enabled": false},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	file := filepath.Join(s.t.TempDir(), "values.json")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return file
}

// run runs a program from the module's folder, with the administrator's
// rights, and answers what it writes.
func (s *install) run(program string, args ...string) string {
	s.t.Helper()
	out, err := s.try(program, args...)
	if err != nil {
		s.t.Fatalf("%s %s: %v\n%s", filepath.Base(program), strings.Join(args, " "), err, out)
	}
	return out
}

func (s *install) try(program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 6*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = repository
	home := filepath.Join(kube.Dir, "home")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kube.AdminKubeconfig(), "HOME="+home, "IMAGE_BUILDER_SERVER=")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// helm is the program of helm's module.
func (s *install) helm(args ...string) string {
	s.t.Helper()
	program, err := filepath.Abs(filepath.Join(repository, "bin/helm"))
	if err != nil {
		s.t.Fatal(err)
	}
	return s.run(program, append(args, "--namespace", namespace)...)
}

func (s *install) kubectl(args ...string) string {
	s.t.Helper()
	return s.run(kubelet.Program("kubectl"), append([]string{"--namespace", namespace}, args...)...)
}

// operator runs a command of the service in a node's pod, where operators are
// known by its socket.
func (s *install) operator(pod string, args ...string) string {
	s.t.Helper()
	return s.kubectl(append([]string{"exec", pod, "-c", "image-builder", "--", "image-builder"}, args...)...)
}

// servers are the addresses of nodes for clients: names of pods, as DNS has
// them where there is DNS.
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

// load asks for builds until stop is called, which answers whether all promises
// were kept. Each round of the checker is judged of its own.
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

// leader is the pod with the leader's label.
func (s *install) leader() (name string) {
	s.t.Helper()
	harness.Eventually(s.t, 2*time.Minute, "one pod has the leader's label", func() bool {
		list, err := kube.Client.CoreV1().Pods(namespace).List(s.t.Context(), metav1.ListOptions{LabelSelector: "image-builder/leader=true"})
		if err != nil || len(list.Items) != 1 {
			return false
		}
		name = list.Items[0].Name
		return true
	})
	return name
}

// members waits until the cluster is of so many nodes that live, and answers
// how many of them vote.
func (s *install) members(want int) (voters int) {
	s.t.Helper()
	var last string
	harness.Eventually(s.t, 3*time.Minute, fmt.Sprintf("the cluster has %d members", want), func() bool {
		out, err := s.try(kubelet.Program("kubectl"), "--namespace", namespace, "exec", release+"-0", "-c", "image-builder", "--", "image-builder", "cluster", "members", "-o", "json")
		if last = out; err != nil {
			return false
		}
		var res struct {
			Members []struct {
				Voter bool   `json:"voter"`
				State string `json:"state"`
			} `json:"members"`
		}
		if json.Unmarshal([]byte(out), &res) != nil || len(res.Members) != want {
			return false
		}
		voters = 0
		for _, m := range res.Members {
			if m.State != "alive" {
				return false
			}
			if m.Voter {
				voters++
			}
		}
		return true
	})
	if s.t.Failed() {
		s.t.Log(last)
	}
	return voters
}

// explain tells of pods and events when a test has failed.
func (s *install) explain() {
	if !s.t.Failed() {
		return
	}
	for _, args := range [][]string{
		{"get", "pods,statefulsets,endpointslices,pvc,jobs", "-A", "-o", "wide"},
		{"get", "events", "--sort-by=.lastTimestamp"},
		{"logs", "-l", "app.kubernetes.io/component=node", "-c", "image-builder", "--tail=30", "--prefix"},
		{"describe", "pods", "-l", "app.kubernetes.io/component=certs"},
		{"logs", "-l", "app.kubernetes.io/component=certs", "--all-containers", "--tail=10", "--prefix"},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		cmd := exec.CommandContext(ctx, kubelet.Program("kubectl"), append([]string{"--namespace", namespace}, args...)...)
		cmd.Env = append(os.Environ(), "KUBECONFIG="+kube.AdminKubeconfig())
		out, _ := cmd.CombinedOutput()
		cancel()
		s.t.Logf("%s:\n%s", strings.Join(args, " "), out)
	}
}

// readLog reads the log of a build, to its end or as far as it is.
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

// upload gives the service a context with a Dockerfile, and answers its digest.
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
	// An error of Send is told by CloseAndRecv.
	_ = stream.Send(&imagebuilderv1.UploadContextRequest{Digest: fmt.Sprintf("sha256:%x", sha256.Sum256(b.Bytes())), Chunk: b.Bytes()})
	res, err := stream.CloseAndRecv()
	if err != nil {
		s.t.Fatal(err)
	}
	return res.Digest
}
