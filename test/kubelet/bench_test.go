//go:build kubernetes

package kubelet_test

import (
	"bufio"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/kubelet"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_Kubelet_FirstLine measures the time from the call of BuildImage until a
// client sees the first line that the Dockerfile's step writes, against a pod of
// BuildKit's image that is made straight through the API and writes a line:
// the medians are in docs/benchmarks.md.
func Test_Kubelet_FirstLine(t *testing.T) {
	const rounds = 5
	s := newInstall(t, installOptions{})
	repo := newGitRepo(t, "")
	repo.Commit(map[string]string{"Dockerfile": "FROM " + s.base + "\nARG N\nRUN echo first-line-$N.\n"})
	var ours, straight []time.Duration
	for i := range rounds {
		ours = append(ours, s.firstLine(repo, i))
		straight = append(straight, s.straightPod(i))
	}
	slices.Sort(ours)
	slices.Sort(straight)
	ratio := float64(ours[rounds/2]) / float64(straight[rounds/2])
	t.Logf("to the first line: build %s, pod straight through the API %s (medians of %d), ratio %.1f", ours[rounds/2].Round(10*time.Millisecond), straight[rounds/2].Round(10*time.Millisecond), rounds, ratio)
	if ratio > 10 {
		t.Errorf("a build is %.1f times slower than a pod: %v, %v", ratio, ours, straight)
	}
	s.tidy()
}

func (s *install) firstLine(repo *testkit.GitRepo, i int) time.Duration {
	s.t.Helper()
	began := time.Now()
	n := s.Nodes[i%3]
	id := s.ask(n, &imagebuilderv1.BuildImageRequest{
		RequestId: fmt.Sprint("first-line-", i), Requester: "test",
		Source: gitSource(repo.URL, func(d *imagebuilderv1.DockerfileSource) { d.BuildArgs = map[string]string{"N": fmt.Sprint(i)} }),
	})
	stream, err := n.Native.BuildLogs(s.t.Context(), &imagebuilderv1.BuildLogsRequest{Build: &imagebuilderv1.BuildLogsRequest_Id{Id: id}, Follow: true})
	if err != nil {
		s.t.Fatal(err)
	}
	var seen strings.Builder
	for !strings.Contains(seen.String(), fmt.Sprintf(" first-line-%d.\n", i)) {
		m, err := stream.Recv()
		if err != nil {
			s.t.Fatalf("the log ended (%v):\n%s", err, seen.String())
		}
		seen.Write(m.Content)
	}
	took := time.Since(began)
	s.succeeded(n, id)
	return took
}

// straightPod is the same without this service.
func (s *install) straightPod(i int) time.Duration {
	s.t.Helper()
	began := time.Now()
	pods := kube.Client.CoreV1().Pods(s.namespace)
	name := fmt.Sprint("straight-", i)
	if _, err := pods.Create(s.t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{
			Name: "c", Image: kubelet.BuildKitImage, Command: []string{"sh", "-c", "echo first-line"},
		}}},
	}, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
	testkit.Eventually(s.t, time.Minute, "the pod has written", func() bool {
		log, err := pods.GetLogs(name, &corev1.PodLogOptions{Follow: true}).Stream(s.t.Context())
		if err != nil {
			return false // it has not begun
		}
		defer log.Close()
		_, err = bufio.NewReader(log).ReadString('\n')
		return err == nil
	})
	return time.Since(began)
}
