//go:build kubernetes

package chart

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/image-builder-ha/image-builder/test/kubelet"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// plain installs three nodes without helm, with the commands of deploy/kubernetes/README.md, in the
// former namespace of the release. Nodes find each other by DNS.
func (s *install) plain() {
	s.typed(s.text(installing, "helm uninstall"))
	// With pods that end slowly, the deletion of the namespace would take a minute.
	testkit.Eventually(s.t, 2*time.Minute, "all pods of the release have ended", func() bool {
		list, err := kube.Client.CoreV1().Pods(namespace).List(s.t.Context(), metav1.ListOptions{})
		return err == nil && len(list.Items) == 0
	})
	s.kubectl("delete", "namespace", namespace, "--timeout=2m")
	s.disks("", "20Gi", 3)
	serveNames(s.t, kubelet.Address)
	dir := s.edited()
	for _, c := range s.commands(plainly, "") {
		if out := s.typedIn(dir, c); strings.HasSuffix(c.String(), "cluster status") {
			s.t.Logf("the status:\n%s", out)
		}
	}
	s.members(3, 3)
	s.operator(release+"-0", "build", "--ref", s.base)
}

// edited returns a folder with a copy of the manifest, edited for this cluster as by an operator:
// names of repositories, a registry without TLS, one machine, no DNS of the cluster.
func (s *install) edited() (dir string) {
	s.t.Helper()
	dir = s.t.TempDir()
	const file = "image-builder.yaml"
	raw, err := os.ReadFile(filepath.Join(root, filepath.Dir(plainly), file))
	if err != nil {
		s.t.Fatal(err)
	}
	text := string(raw)
	for _, edit := range []struct{ what, pattern, by string }{
		{"the image", `image: ghcr\.io/\S+`, "image: " + s.image + ":" + s.tag("helm upgrade")},
		{"the repositories", `registry\.example\.com`, s.reg.Addr},
		{"a registry without TLS", `(\n +)("sealing": \{)`, fmt.Sprintf(`$1"registry": {"insecureHosts": [%q]},$1$2`, s.reg.Addr)},
		{"one machine", `(?s)(\n +)affinity:\n.*?(\n +topologySpreadConstraints:)`, "$2"},
		{"no DNS of the cluster", `(\n +)(terminationGracePeriodSeconds:)`, "${1}dnsPolicy: None${1}dnsConfig: {nameservers: [" + kubelet.Address + "]}$1$2"},
	} {
		pattern := regexp.MustCompile(edit.pattern)
		if !pattern.MatchString(text) {
			s.t.Fatalf("%s has no place for %s", file, edit.what)
		}
		text = pattern.ReplaceAllString(text, edit.by)
	}
	if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return dir
}
