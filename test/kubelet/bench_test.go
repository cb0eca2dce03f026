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

// Test_Kubelet_FirstLine measures the time from a BuildImage call to the first output line of a
// Dockerfile step at a client. It compares this time with a pod of the BuildKit image that is
// created through the Kubernetes API and prints a line. The medians are in docs/benchmarks.md.
func Test_Kubelet_FirstLine(t *testing.T) {
	const rounds = 5
	s := newInstall(t, installOptions{})
	repo := newGitRepo(t, "")
	repo.Commit(map[string]string{"Dockerfile": "FROM " + s.base + "\nARG N\nRUN echo first-line-$N.\n"})
	var ours, direct []time.Duration
	for i := range rounds {
		ours = append(ours, s.firstLine(repo, i))
		direct = append(direct, s.directPod(i))
	}
	slices.Sort(ours)
	slices.Sort(direct)
	ratio := float64(ours[rounds/2]) / float64(direct[rounds/2])
	t.Logf("to the first line: build %s, pod through the API %s (medians of %d), ratio %.1f", ours[rounds/2].Round(10*time.Millisecond), direct[rounds/2].Round(10*time.Millisecond), rounds, ratio)
	if ratio > 10 {
		t.Errorf("a build is %.1f times slower than a pod: %v, %v", ratio, ours, direct)
	}
	s.tidy()
}

func (s *install) firstLine(repo *testkit.GitRepo, i int) time.Duration {
	s.t.Helper()
	began := time.Now()
	n := s.Nodes[i%3]
	id := s.request(n, &imagebuilderv1.BuildImageRequest{
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

// directPod measures the time to the first line of a pod, without this service.
func (s *install) directPod(i int) time.Duration {
	s.t.Helper()
	began := time.Now()
	pods := kube.Client.CoreV1().Pods(s.namespace)
	name := fmt.Sprint("direct-", i)
	if _, err := pods.Create(s.t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{
			Name: "c", Image: kubelet.BuildKitImage, Command: []string{"sh", "-c", "echo first-line"},
		}}},
	}, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
	testkit.Eventually(s.t, time.Minute, "the pod has printed a line", func() bool {
		log, err := pods.GetLogs(name, &corev1.PodLogOptions{Follow: true}).Stream(s.t.Context())
		if err != nil {
			return false // the container has not started
		}
		defer log.Close()
		_, err = bufio.NewReader(log).ReadString('\n')
		return err == nil
	})
	return time.Since(began)
}
