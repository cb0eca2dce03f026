//go:build kubernetes

package kubelet_test

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_Kubelet_CredentialsRenewed changes the registry credential of the install while a step runs,
// and then revokes the former one. The owner writes the new credential into the Secret, the kubelet
// updates the file of the pod's proxy, and the build pushes with it.
func Test_Kubelet_CredentialsRenewed(t *testing.T) {
	const former, next = "former-password-2kQ7x", "next-password-8Lw4m"
	addr, storage, auth := nextRegistry(), t.TempDir(), filepath.Join(t.TempDir(), "config.json")
	credential := func(password string) {
		t.Helper()
		raw, err := json.Marshal(map[string]any{"auths": map[string]any{addr: map[string]any{
			"auth": base64.StdEncoding.EncodeToString([]byte("install:" + password)),
		}}})
		if err == nil {
			err = os.WriteFile(auth+".new", raw, 0o600)
		}
		if err == nil {
			err = os.Rename(auth+".new", auth)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	credential(former)
	s := newInstall(t, installOptions{
		users: map[string]string{"install": former}, storage: storage,
		over: harness.Config{"orchestrator": map[string]any{"pullSecretFile": auth}},
	})
	repo, gate := newGitRepo(t, ""), newGate(t)
	repo.Commit(map[string]string{"Dockerfile": "FROM " + s.base + "\nRUN wget -q -O- " + gate.url + "\n"})
	id := s.request(s.Nodes[0], &imagebuilderv1.BuildImageRequest{
		RequestId: "renewed", Requester: "test", Auth: &imagebuilderv1.RegistryAuth{AllowAll: true}, Source: gitSource(repo.URL, nil),
	})
	gate.await()
	pod := s.podOf(id, 1)
	if pod == nil {
		t.Fatal("the build runs without a pod")
	}
	shown := func(password string) bool {
		look := &finder{secrets: []string{password}}
		look.tree(kube.PodDir(pod) + "/volumes/kubernetes.io~secret/proxy")
		return len(look.found) > 0
	}
	if !shown(former) || shown(next) {
		t.Fatal("control: the file of the proxy lacks the former credential, or has the next one already")
	}
	credential(next)
	testkit.Eventually(t, 4*time.Minute, "the file of the proxy has the next credential", func() bool { return shown(next) })
	testkit.Eventually(t, time.Minute, "the proxy uses the next credential", func() bool {
		raw, err := kube.Client.CoreV1().Pods(s.namespace).GetLogs(pod.Name, &corev1.PodLogOptions{Container: "registry-proxy"}).DoRaw(t.Context())
		return err == nil && strings.Contains(string(raw), "took over renewed registry credentials")
	})
	s.reg.Stop()
	s.reg = registrytest.Start(t, registrytest.Options{Addr: addr, Users: map[string]string{"install": next}, Storage: storage})
	gate.open()
	if b := s.succeeded(s.Nodes[1], id); len(b.Attempts) != 1 {
		t.Errorf("%d attempts: %v", len(b.Attempts), b.Attempts)
	}
	s.tidy()
}
