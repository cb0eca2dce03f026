//go:build kubernetes

package kubelet_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/kubelet"
)

// Test_Kubelet_Secrets builds from a private base image and a private git repository in a pod, and
// searches for the secrets everywhere. Only the Secret of the pod has them.
func Test_Kubelet_Secrets(t *testing.T) {
	const gitToken, registryPassword, buildSecret = "git-token-3cFq8", "registry-password-9xKw2", "build-secret-7Hq5d"
	storage, auth := t.TempDir(), filepath.Join(t.TempDir(), "config.json")
	raw, err := json.Marshal(map[string]any{"auths": map[string]any{nextRegistry(): map[string]any{
		"auth": base64.StdEncoding.EncodeToString([]byte("install:" + registryPassword)),
	}}})
	if err == nil {
		err = os.WriteFile(auth, raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := newInstall(t, installOptions{
		users: map[string]string{"install": registryPassword}, storage: storage,
		over: harness.Config{"orchestrator": map[string]any{"pullSecretFile": auth}},
	})
	repo, gate := newGitRepo(t, gitToken), newGate(t)
	repo.Commit(map[string]string{"Dockerfile": "FROM " + s.base + "\nRUN --mount=type=secret,id=token wc -c /run/secrets/token; cat /run/secrets/token; echo; wget -q -O- " + gate.url + "\n"})
	id := s.request(s.Nodes[0], &imagebuilderv1.BuildImageRequest{
		RequestId: "secrets", Requester: "test", Auth: &imagebuilderv1.RegistryAuth{AllowAll: true},
		GitAuth: &imagebuilderv1.BasicAuth{Username: "u", Password: gitToken}, Secrets: map[string][]byte{"token": []byte(buildSecret)},
		Source: gitSource(repo.URL, func(d *imagebuilderv1.DockerfileSource) {
			d.SecretIds = []string{"token"}
			d.Provenance = "max"
		}),
	})
	gate.await()
	pod := s.podOf(id, 1)
	if pod == nil {
		t.Fatal("the build runs without a pod")
	}
	look := &finder{t: t, secrets: []string{gitToken, registryPassword, buildSecret}}
	// The control: the volumes of the worker and the proxy have the secrets.
	mounted := &finder{secrets: look.secrets}
	mounted.tree(kube.PodDir(pod) + "/volumes/kubernetes.io~secret")
	if len(mounted.found) < 3 {
		t.Errorf("the control finds only %v", mounted.found)
	}
	roots, err := kube.Roots(pod, "buildkit")
	if err != nil || len(roots) != 1 {
		t.Fatalf("find the files of the BuildKit container: %v, %v", roots, err)
	}
	// The test does not search the output that the worker keeps until a node has redacted and
	// stored it: only the worker can read it.
	for _, dir := range []string{roots[0], kube.PodDir(pod) + "/volumes/kubernetes.io~empty-dir/state"} {
		if n := look.tree(dir); n < 3 {
			t.Errorf("%s has only %d files", dir, n)
		}
	}
	s.inspect(look)
	gate.open()
	b := s.succeeded(s.Nodes[1], id)
	log := s.log(s.Nodes[2], id)
	look.text("the log", []byte(log))
	if !strings.Contains(log, "[redacted]") || !strings.Contains(log, "18 /run/secrets/token") {
		t.Errorf("the log: %s", log)
	}
	status, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	look.text("the build", status)
	s.inspect(look)
	if n := look.tree(storage); n < 5 { // layers, provenance
		t.Errorf("the registry has only %d files", n)
	}
	for _, n := range s.Nodes {
		look.text("the log of node "+n.Name, []byte(n.Log()))
		look.tree(filepath.Join(n.Dir, "data"))
	}
	for _, p := range []*kubelet.Process{kube.Kubelet, kube.Containerd, kube.APIServer} {
		look.text("a log of Kubernetes", []byte(p.Log(1<<30)))
	}
	s.tidy()
}

// inspect searches pods, events and the logs of containers.
func (s *install) inspect(look *finder) {
	s.t.Helper()
	ctx := s.t.Context()
	pods := s.pods()
	events, err := kube.Client.CoreV1().Events(s.namespace).List(ctx, metav1.ListOptions{})
	if err != nil || len(events.Items) == 0 || len(pods) == 0 {
		s.t.Fatalf("%d pods, %d events, %v", len(pods), len(events.Items), err)
	}
	for name, v := range map[string]any{"pods": pods, "events": events} {
		raw, err := json.Marshal(v)
		if err != nil {
			s.t.Fatal(err)
		}
		look.text(name, raw)
	}
	for _, p := range pods {
		for _, c := range append(p.Spec.InitContainers, p.Spec.Containers...) {
			look.text("the log of "+c.Name, s.containerLog(ctx, p.Name, c.Name))
		}
	}
}

func (s *install) containerLog(ctx context.Context, pod, container string) []byte {
	raw, err := kube.Client.CoreV1().Pods(s.namespace).GetLogs(pod, &corev1.PodLogOptions{Container: container}).DoRaw(ctx)
	if err != nil {
		s.t.Errorf("read the log of %s: %v", container, err)
	}
	return raw
}

// finder searches for secrets, in plain text and in base64.
type finder struct {
	t       *testing.T // reports secrets as errors; nil for a control
	secrets []string
	found   []string
}

func (f *finder) text(where string, text []byte) {
	for _, secret := range f.secrets {
		for _, form := range []string{secret, base64.StdEncoding.EncodeToString([]byte(secret)), base64.StdEncoding.EncodeToString([]byte("u:" + secret)), base64.StdEncoding.EncodeToString([]byte("install:" + secret))} {
			i := bytes.Index(text, []byte(form))
			if i < 0 {
				continue
			}
			f.found = append(f.found, where+": "+form)
			if f.t != nil {
				f.t.Errorf("%s contains %s: %q", where, form, text[max(0, i-60):min(len(text), i+80)])
			}
		}
	}
}

// tree searches all files below a folder and returns their number.
func (f *finder) tree(dir string) int {
	n := 0
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error { // files come and go
		if err != nil {
			if errors.Is(err, fs.ErrPermission) && f.t != nil {
				f.t.Errorf("search %s: %v", path, err)
			}
			return nil
		}
		if d.IsDir() && (strings.HasSuffix(path, "/proc") || strings.HasSuffix(path, "/sys") || strings.HasSuffix(path, "/dev")) {
			return fs.SkipDir
		}
		if !d.Type().IsRegular() {
			return nil
		}
		raw, err := os.ReadFile(path)
		if err == nil {
			n++
			f.text(path, raw)
		}
		return nil
	})
	return n
}
