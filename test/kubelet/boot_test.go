//go:build kubernetes

package kubelet_test

import (
	"io"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/image-builder-ha/image-builder/test/kubelet"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_Kubelet_RunsAPod tests this package: a pod is a real container.
func Test_Kubelet_RunsAPod(t *testing.T) {
	pods := kube.Client.CoreV1().Pods("default")
	_, err := pods.Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "hello"},
		Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{
			Name: "c", Image: kubelet.BusyboxImage, Command: []string{"sh", "-c", "echo hello from $HOSTNAME; exit 3"},
		}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var p *corev1.Pod
	testkit.Eventually(t, time.Minute, "the pod has ended", func() bool {
		p, err = pods.Get(t.Context(), "hello", metav1.GetOptions{})
		return err == nil && p.Status.Phase == corev1.PodFailed
	})
	if code := p.Status.ContainerStatuses[0].State.Terminated.ExitCode; code != 3 {
		t.Errorf("exit code %d", code)
	}
	log, err := pods.GetLogs("hello", &corev1.PodLogOptions{}).Stream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if raw, err := io.ReadAll(log); err != nil || string(raw) != "hello from hello\n" {
		t.Errorf("log %q, %v", raw, err)
	}
}
