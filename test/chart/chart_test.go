//go:build kubernetes

package chart

import (
	"fmt"
	"strings"
	"testing"
	"time"

	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/harness"
)

// Test_Chart installs the chart and does to it what operators do. Its parts
// follow each other: they share one release.
func Test_Chart(t *testing.T) {
	s := newInstall(t)
	if v := s.members(3); v != 3 {
		t.Fatalf("%d of 3 nodes vote", v)
	}
	if sbom := s.kubectl("exec", release+"-0", "-c", "image-builder", "--", "cat", "/usr/share/doc/image-builder/sbom.spdx.json"); !strings.Contains(sbom, "pkg:golang/github.com/hashicorp/raft@") {
		t.Errorf("the image's list of modules: %s", sbom)
	}
	t.Run("LeaderDeleted", func(t *testing.T) { s.in(t).leaderDeleted() })
	t.Run("Upgrade", func(t *testing.T) { s.in(t).upgrade() })
	t.Run("Scale", func(t *testing.T) { s.in(t).scale() })
	t.Run("Evict", func(t *testing.T) { s.in(t).evict() })
}

// in is the install for a part of the test.
func (s *install) in(t *testing.T) *install {
	part := *s
	part.t = t
	return &part
}

// long starts builds in pods that write a line each half second.
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

// write waits until some of the builds write.
func (s *install) write(ids []string, name string, n int) {
	s.t.Helper()
	harness.Eventually(s.t, 4*time.Minute, fmt.Sprintf("%d builds write", n), func() bool {
		writing := 0
		for i, id := range ids {
			if strings.Contains(s.log(id, false), fmt.Sprintf(" %s-%d-line-", name, i)) {
				writing++
			}
		}
		return writing >= n
	})
}

// complete wants all builds to succeed with all of their lines.
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
				s.t.Errorf("build %d: line %d is %d times in the log:\n%s", i, l, n, log)
				break
			}
		}
	}
}

// leaderDeleted deletes the leader's pod while twenty builds run in pods.
func (s *install) leaderDeleted() {
	const lines = 40
	ids := s.long("deleted", 20, lines)
	s.write(ids, "deleted", 3)
	was := s.leader()
	s.kubectl("delete", "pod", was, "--wait=false")
	began := time.Now()
	harness.Eventually(s.t, time.Minute, "another pod leads", func() bool { return s.leader() != was })
	s.t.Logf("the pod of the leader %s was deleted; another one had the label after %s", was, time.Since(began).Round(time.Millisecond))
	s.complete(ids, "deleted", lines)
	s.members(3)
}

// upgrade changes the image while builds are asked for and run in pods.
func (s *install) upgrade() {
	const lines = 60
	stop := s.load(3)
	ids := s.long("upgraded", 4, lines)
	s.write(ids, "upgraded", 1)
	began := time.Now()
	s.helm("upgrade", release, "deploy/helm/image-builder", "--reuse-values", "--set", "image.tag=v2", "--wait", "--timeout", "5m")
	s.kubectl("rollout", "status", "statefulset/"+release, "--timeout=5m")
	s.t.Logf("helm upgrade took %s", time.Since(began).Round(time.Second))
	for i := range 3 {
		if env := s.kubectl("exec", fmt.Sprintf("%s-%d", release, i), "-c", "image-builder", "--", "sh", "-c", "echo $BUILD"); strings.TrimSpace(env) != "v2" {
			s.t.Errorf("pod %d runs the image %s", i, env)
		}
	}
	s.complete(ids, "upgraded", lines)
	stop()
	s.members(3)
}

// scale goes from three nodes to five and back, by the commands of
// docs/scaling.md, while builds are asked for. Nodes that stay are not
// restarted.
func (s *install) scale() {
	before := s.kubectl("get", "pods", "-l", "app.kubernetes.io/component=node", "-o", "jsonpath={range .items[*]}{.metadata.name}={.metadata.uid} {end}")
	stop := s.load(3)
	s.helm("upgrade", release, "deploy/helm/image-builder", "--reuse-values", "--set", "replicas=5", "--set", "cluster.voters=3", "--wait", "--timeout", "5m")
	if v := s.members(5); v != 3 {
		s.t.Errorf("%d of five nodes vote", v)
	}
	s.helm("upgrade", release, "deploy/helm/image-builder", "--reuse-values", "--set", "replicas=3", "--wait", "--timeout", "5m")
	if v := s.members(3); v != 3 {
		s.t.Errorf("%d of three nodes vote", v)
	}
	stop()
	after := s.kubectl("get", "pods", "-l", "app.kubernetes.io/component=node", "-o", "jsonpath={range .items[*]}{.metadata.name}={.metadata.uid} {end}")
	if before != after {
		s.t.Errorf("pods were restarted: %s, then %s", before, after)
	}
}

// evict asks for the eviction of two pods one after the other: the second has
// to wait until the first is back.
func (s *install) evict() {
	evict := func(i int) error {
		return kube.Client.PolicyV1().Evictions(namespace).Evict(s.t.Context(), &policyv1.Eviction{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", release, i), Namespace: namespace},
		})
	}
	harness.Eventually(s.t, time.Minute, "the first pod may be evicted", func() bool { return evict(0) == nil })
	if err := evict(1); !apierrors.IsTooManyRequests(err) {
		s.t.Errorf("the eviction of a second pod while the first is away: %v", err)
	}
	s.kubectl("rollout", "status", "statefulset/"+release, "--timeout=3m")
	harness.Eventually(s.t, 2*time.Minute, "the second pod may be evicted once the first is ready", func() bool { return evict(1) == nil })
	s.kubectl("rollout", "status", "statefulset/"+release, "--timeout=3m")
	s.members(3)
}

// log reads the log of a build, to its end or as far as it is.
func (s *install) log(id string, follow bool) string {
	s.t.Helper()
	return readLog(s.t, s.c, id, follow)
}
