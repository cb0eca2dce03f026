package kubernetes_test

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
)

// Test_Ended_StaysUntilCommitted checks that a pod that has ended reports its result, and stays
// while the cluster has no majority to commit it. The runtime does not know what is committed, and
// its clock may be wrong. The leader stops pods that have outlived their attempts.
func Test_Ended_StaysUntilCommitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := metav1.Now()
		client := fake.NewClientset(&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "ib-b1-1", Namespace: namespace, UID: "u", CreationTimestamp: ended, Labels: map[string]string{"image-builder/install": "test"}},
			Status: corev1.PodStatus{Phase: corev1.PodSucceeded, ContainerStatuses: []corev1.ContainerStatus{{
				Name: "worker", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{FinishedAt: ended}},
			}}},
		})
		r, err := kubernetes.New(kubernetes.Options{
			Client: client, Namespace: namespace, Install: "test", Node: "node-a",
			Pod:         kubernetes.PodOptions{Images: kubernetes.Images{Worker: "image-builder:1", BuildKit: "buildkit:1"}},
			Credentials: credentials{}, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if _, err := client.CoreV1().Pods(namespace).Get(t.Context(), "ib-b1-1", metav1.GetOptions{}); err != nil {
			t.Errorf("the pod is gone: %v", err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
}
