//go:build kubernetes

package kubelet_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/kubelet"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// install is three nodes of the service and a registry. The nodes build in pods of their own
// namespace. Pods can reach the nodes and the registry.
type install struct {
	*harness.Cluster
	t         *testing.T
	reg       *registrytest.Registry
	namespace string
	base      string // an image with a shell
}

// installs is the number of installs so far, for names and ports.
var installs int

// nextRegistry returns the address of the registry of the next install.
func nextRegistry() string { return fmt.Sprintf("%s:%d", kubelet.Address, 5001+installs) }

type installOptions struct {
	users   map[string]string // of the registry
	storage string            // folder of the registry; "" for a new one
	over    harness.Config    // of all nodes
}

// newInstall starts an install and waits until it is ready.
func newInstall(t *testing.T, o installOptions) *install {
	t.Helper()
	addr := nextRegistry()
	installs++
	s := &install{t: t, namespace: fmt.Sprintf("builds-%d", installs)}
	s.reg = registrytest.Start(t, registrytest.Options{Addr: addr, Users: o.users, Storage: o.storage})
	s.reg.Push(t, "library/busybox:1", registrytest.BusyboxImage(t, "cat", "sleep", "echo", "seq", "dd", "wc", "ls", "false", "true", "grep", "find", "head", "yes", "wget", "nc", "env", "tail", "strings", "tr"))
	s.base = s.reg.Addr + "/library/busybox:1"
	account, err := kube.Account(t.Context(), s.namespace)
	if err != nil {
		t.Fatal(err)
	}
	over := harness.Config{
		"pprofAddress": "", // the nodes share the loopback of this host
		"registry":     map[string]any{"allowLoopback": false, "insecureHosts": []string{s.reg.Addr}},
		"runtimes":     map[string]any{"dockerfile": "kubernetes"},
		"kubernetes": map[string]any{
			"namespace": s.namespace, "install": "test", "kubeconfig": account, "qps": 100, "burst": 200, "profile": "privileged", "imagePullPolicy": "Never",
			"timeouts": map[string]any{"termination": "3s"},
			"images":   map[string]any{"worker": kubelet.WorkerImage, "buildkit": kubelet.BuildKitImage},
		},
	}
	merge(over, o.over)
	var hosts []harness.Host
	for _, ip := range kubelet.HostAddresses {
		hosts = append(hosts, harness.Host{IP: ip})
	}
	s.Cluster = harness.StartClusterOn(t, hosts, s.reg.Addr, over)
	t.Cleanup(s.explain)
	return s
}

// merge merges the configuration over into another one, key by key.
func merge(into, over map[string]any) {
	for k, v := range over {
		if m, ok := v.(map[string]any); ok {
			if old, ok := into[k].(map[string]any); ok {
				merge(old, m)
				continue
			}
		}
		into[k] = v
	}
}

// explain logs pods and events if the test has failed.
func (s *install) explain() {
	if !s.t.Failed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	events, err := kube.Client.CoreV1().Events(s.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		s.t.Log(err)
		return
	}
	for _, e := range events.Items[max(0, len(events.Items)-40):] {
		s.t.Logf("event %s %s: %s", e.InvolvedObject.Name, e.Reason, e.Message)
	}
	for _, p := range s.pods() {
		for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			raw, _ := kube.Client.CoreV1().Pods(s.namespace).GetLogs(p.Name, &corev1.PodLogOptions{Container: c.Name, TailLines: ptr(int64(10))}).DoRaw(ctx)
			s.t.Logf("pod %s, %s: %+v; its log:\n%s", p.Name, c.Name, c.State, raw)
		}
	}
}

func ptr[T any](v T) *T { return &v }

// pods returns the pods of the install.
func (s *install) pods() []corev1.Pod {
	s.t.Helper()
	list, err := kube.Client.CoreV1().Pods(s.namespace).List(context.Background(), metav1.ListOptions{LabelSelector: "image-builder/install=test"})
	if err != nil {
		s.t.Fatal(err)
	}
	return list.Items
}

// podOf returns the pod of an attempt of a build, or nil.
func (s *install) podOf(id string, attempt uint32) *corev1.Pod {
	s.t.Helper()
	p, err := kube.Client.CoreV1().Pods(s.namespace).Get(context.Background(), fmt.Sprintf("ib-%s-%d", id, attempt), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

// gitSource returns the source for the branch main of a repository. change, if not nil, may change
// it.
func gitSource(url string, change func(*imagebuilderv1.DockerfileSource)) *imagebuilderv1.Source {
	d := &imagebuilderv1.DockerfileSource{Context: &imagebuilderv1.DockerfileSource_Git{Git: &imagebuilderv1.GitContext{
		RemoteUri: url, CloneTarget: "main", TargetMode: imagebuilderv1.GitTargetMode_GIT_TARGET_MODE_REMOTE_BRANCH,
	}}}
	if change != nil {
		change(d)
	}
	return &imagebuilderv1.Source{From: &imagebuilderv1.Source_Dockerfile{Dockerfile: d}}
}

// request requests a new build and returns its id.
func (s *install) request(n *harness.Node, req *imagebuilderv1.BuildImageRequest) string {
	s.t.Helper()
	res, err := harness.Persist(s.t.Context(), func(ctx context.Context) (*imagebuilderv1.BuildImageResponse, error) {
		return n.Native.BuildImage(ctx, req)
	})
	if err != nil {
		s.t.Fatal(err)
	}
	if res.Exists || res.Attached {
		s.t.Fatalf("the build is not new: %v", res)
	}
	return res.Build.Id
}

// build requests a build of a Dockerfile in a new git repository.
func (s *install) build(n *harness.Node, name, dockerfile string) string {
	s.t.Helper()
	repo := newGitRepo(s.t, "")
	repo.Commit(map[string]string{"Dockerfile": strings.ReplaceAll(dockerfile, "FROM base", "FROM "+s.base)})
	return s.request(n, &imagebuilderv1.BuildImageRequest{RequestId: name, Requester: "test", Source: gitSource(repo.URL, nil)})
}

// await waits for the end of a build.
func (s *install) await(n *harness.Node, id string) *imagebuilderv1.Build {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 4*time.Minute)
	defer cancel()
	b := n.Wait(s.t, ctx, id)
	if b == nil {
		s.t.FailNow()
	}
	return b
}

// succeeded waits for the end of a build, which must succeed.
func (s *install) succeeded(n *harness.Node, id string) *imagebuilderv1.Build {
	s.t.Helper()
	b := s.await(n, id)
	if b.Phase != imagebuilderv1.Phase_PHASE_SUCCEEDED {
		s.t.Fatalf("build %s: %s, %s: %s", id, b.Phase, b.Blame, b.Message)
	}
	return b
}

// log reads the whole log of a build from a node.
func (s *install) log(n *harness.Node, id string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	out, err := harness.Persist(ctx, func(ctx context.Context) (string, error) { return n.ReadLog(ctx, id, 0) })
	if err != nil {
		s.t.Fatalf("read the log of %s from %s: %v", id, n.Name, err)
	}
	return out
}

// runs waits until the log of a build contains a text.
func (s *install) runs(n *harness.Node, id, text string) {
	s.t.Helper()
	testkit.Eventually(s.t, 2*time.Minute, "the build has written "+text, func() bool {
		return strings.Contains(s.logNow(n, id), text)
	})
}

// logNow reads the current content of a log. It does not wait for more.
func (s *install) logNow(n *harness.Node, id string) string {
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	stream, err := n.Native.BuildLogs(ctx, &imagebuilderv1.BuildLogsRequest{Build: &imagebuilderv1.BuildLogsRequest_Id{Id: id}})
	if err != nil {
		return ""
	}
	var b strings.Builder
	for {
		m, err := stream.Recv()
		if err != nil {
			return b.String()
		}
		b.Write(m.Content)
	}
}

// tidy waits until all pods have ended and every Secret has its pod. It returns the names of the
// pods.
func (s *install) tidy() []string {
	s.t.Helper()
	var names []string
	testkit.Eventually(s.t, 2*time.Minute, "all pods have ended, and no Secret is without its pod", func() bool {
		pods := map[string]bool{}
		for _, p := range s.pods() {
			if p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
				return false
			}
			pods[p.Name] = true
		}
		secrets, err := kube.Client.CoreV1().Secrets(s.namespace).List(s.t.Context(), metav1.ListOptions{})
		if err != nil {
			return false
		}
		for _, x := range secrets.Items {
			if !pods[x.Name] {
				return false
			}
		}
		names = slices.Sorted(maps.Keys(pods))
		return true
	})
	return names
}
