//go:build kubernetes

package chart

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_Chart installs the chart and operates the release with the commands of the documentation.
// Its parts run in order, because they share the release. The last part replaces it by the plain
// manifests.
func Test_Chart(t *testing.T) {
	s := newInstall(t)
	s.look()
	if sbom := s.kubectl("exec", release+"-0", "-c", "image-builder", "--", "cat", "/usr/share/doc/image-builder/sbom.spdx.json"); !strings.Contains(sbom, "pkg:golang/github.com/hashicorp/raft@") {
		t.Errorf("the list of modules in the image: %s", sbom)
	}
	t.Run("LeaderDeleted", func(t *testing.T) { s.in(t).leaderDeleted() })
	t.Run("Upgrade", func(t *testing.T) { s.in(t).upgrade() })
	t.Run("Scale", func(t *testing.T) { s.in(t).scale() })
	t.Run("Evict", func(t *testing.T) { s.in(t).evict() })
	t.Run("Remove", func(t *testing.T) { s.in(t).remove() })
	t.Run("Plain", func(t *testing.T) { s.in(t).plain() })
	if strings.Contains(flag.Lookup("test.run").Value.String(), "/") {
		return // -run selects some of the parts
	}
	for _, c := range s.texts.left() {
		t.Errorf("%s: did not run", c.At())
	}
}

// in returns the install for a part of the test.
func (s *install) in(t *testing.T) *install {
	part := *s
	part.t = t
	return &part
}

// look checks the state of the new cluster with the commands of docs/install.md and
// docs/runbooks.md.
func (s *install) look() {
	s.members(3, 3)
	if out := s.typed(s.text(installing, "cluster members")); strings.Count(out, "alive") != 3 || strings.Count(out, "leader") != 1 {
		s.t.Errorf("want three live members and one leader:\n%s", out)
	}
	if out := s.typed(s.text(installing, "doctor registry")); !strings.Contains(out, "entry "+s.reg.Addr) {
		s.t.Errorf("the nodes do not have the credentials of the secret:\n%s", out)
	}
	if out := s.typed(s.text(runbooks, "cluster status")); !strings.Contains(out, "1 more voter") {
		s.t.Errorf("the status of a cluster of three:\n%s", out)
	}
}

// leaderDeleted deletes the pod of the leader while twenty builds run in pods.
func (s *install) leaderDeleted() {
	const lines = 40
	ids := s.long("deleted", 20, lines)
	s.writing(ids, "deleted", 3)
	was := s.leader()
	s.kubectl("delete", "pod", was, "--wait=false")
	began := time.Now()
	testkit.Eventually(s.t, time.Minute, "another pod leads", func() bool { return s.leader() != was })
	s.t.Logf("the pod of the leader %s was deleted; another one had the label after %s", was, time.Since(began).Round(time.Millisecond))
	s.complete(ids, "deleted", lines)
	s.members(3, 3)
}

// upgrade changes the image while clients request builds and builds run in pods.
func (s *install) upgrade() {
	const lines = 60
	stop := s.load(3)
	ids := s.long("upgraded", 4, lines)
	s.writing(ids, "upgraded", 1)
	began := time.Now()
	s.typed(s.text(installing, "helm upgrade"), "--timeout", "5m")
	s.kubectl("rollout", "status", "statefulset/"+release, "--timeout=5m")
	s.t.Logf("helm upgrade took %s", time.Since(began).Round(time.Second))
	for i := range 3 {
		if env := s.kubectl("exec", fmt.Sprintf("%s-%d", release, i), "-c", "image-builder", "--", "sh", "-c", "echo $BUILD"); strings.TrimSpace(env) != s.tag("helm upgrade") {
			s.t.Errorf("pod %d runs the image %s", i, env)
		}
	}
	s.complete(ids, "upgraded", lines)
	stop()
	s.members(3, 3)
}

// scale scales from three nodes to five and back with the commands of docs/scaling.md, while
// clients request builds. The remaining nodes do not restart.
func (s *install) scale() {
	stop := s.load(3)
	for _, c := range s.commands(scaling, "helm upgrade") {
		before, began := s.pods(), time.Now()
		nodes, err := strconv.Atoi(value(c, "replicas"))
		if err != nil {
			s.t.Fatalf("%s: %v", c.At(), err)
		}
		s.typed(c, "--timeout", "5m")
		s.kubectl("rollout", "status", "statefulset/"+release, "--timeout=5m")
		s.members(nodes, 3)
		testkit.Eventually(s.t, 2*time.Minute, "there are no other pods", func() bool { return len(s.pods()) == nodes })
		s.t.Logf("%d nodes after %s", nodes, time.Since(began).Round(time.Second))
		for name, id := range s.pods() {
			if was, ok := before[name]; ok && was != id {
				s.t.Errorf("%s: the pod %s was restarted", c.At(), name)
			}
		}
	}
	stop()
}

// pods returns the ids of the pods of the nodes, by name.
func (s *install) pods() map[string]string {
	s.t.Helper()
	list, err := kube.Client.CoreV1().Pods(namespace).List(s.t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=node"})
	if err != nil {
		s.t.Fatal(err)
	}
	out := map[string]string{}
	for _, p := range list.Items {
		out[p.Name] = string(p.UID)
	}
	return out
}

// evict requests the eviction of two pods, one after the other. The second eviction must wait until
// the first pod is ready again.
func (s *install) evict() {
	evict := func(i int) error {
		return kube.Client.PolicyV1().Evictions(namespace).Evict(s.t.Context(), &policyv1.Eviction{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", release, i), Namespace: namespace},
		})
	}
	testkit.Eventually(s.t, time.Minute, "the first pod may be evicted", func() bool { return evict(0) == nil })
	if err := evict(1); !apierrors.IsTooManyRequests(err) {
		s.t.Errorf("the eviction of a second pod while the first is away: %v", err)
	}
	s.kubectl("rollout", "status", "statefulset/"+release, "--timeout=3m")
	testkit.Eventually(s.t, 2*time.Minute, "the second pod may be evicted once the first is ready", func() bool { return evict(1) == nil })
	s.kubectl("rollout", "status", "statefulset/"+release, "--timeout=3m")
	s.members(3, 3)
}

// remove uninstalls the release and installs it again with the same name, with the commands of
// docs/install.md. The cluster has the same builds, logs and keys as before.
func (s *install) remove() {
	const lines = 3
	ids := s.long("kept", 2, lines)
	s.complete(ids, "kept", lines)
	builds, keys := s.phases(), s.keys()
	began := time.Now()
	s.typed(s.text(installing, "helm uninstall"))
	s.helmInstall()
	s.members(3, 3)
	s.t.Logf("removed and installed again after %s, with %d builds", time.Since(began).Round(time.Second), len(builds))
	if d := cmp.Diff(builds, s.phases()); d != "" {
		s.t.Errorf("the builds differ (-before +after):\n%s", d)
	}
	s.complete(ids, "kept", lines)
	if s.keys() != keys {
		s.t.Error("the keys have changed")
	}
}

// keys returns a digest of the keys that the nodes share.
func (s *install) keys() [sha256.Size]byte {
	s.t.Helper()
	return sha256.Sum256([]byte(s.kubectl("get", "secret", release+"-sealing", release+"-gossip", "-o", "jsonpath={.items[*].data}")))
}
