package kubernetes

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/image-builder-ha/image-builder/builds"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

type podChange func(*corev1.Pod)

func examplePod(changes ...podChange) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "ib-b-1"}, Spec: corev1.PodSpec{NodeName: "n1"}}
	for _, c := range changes {
		c(p)
	}
	return p
}

func failedFor(reason, message string) podChange {
	return func(p *corev1.Pod) {
		p.Status.Phase, p.Status.Reason, p.Status.Message = corev1.PodFailed, reason, message
	}
}

func disruptedBy(reason string) podChange {
	return func(p *corev1.Pod) {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason})
	}
}

func workerEnded(code int32, reason, message string) podChange {
	return func(p *corev1.Pod) {
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{Name: containerWorker, State: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, Message: message},
		}})
	}
}

func sidecarKilled(name string, last bool) podChange {
	return func(p *corev1.Pod) {
		state := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: reasonOOM}}
		s := corev1.ContainerStatus{Name: name, State: state}
		if last { // it runs again, as sidecars do
			s = corev1.ContainerStatus{Name: name, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}, LastTerminationState: state}
		}
		p.Status.InitContainerStatuses = append(p.Status.InitContainerStatuses, s)
	}
}

func deletedAt(at time.Time) podChange {
	return func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: at} }
}

const (
	userMessage  = `{"blame":"BLAME_USER","message":"build failed: RUN false: exit code 1"}`
	infraMessage = `{"blame":"BLAME_INFRASTRUCTURE","message":"the BuildKit daemon failed"}`
	goodMessage  = `{"repository":"r/base","digest":"sha256:aa","sizeBytes":7}`
)

// Test_Judge is the table of the ends of pods.
func Test_Judge(t *testing.T) {
	now := time.Now()
	user, infra, quota, timeout := builds.BlameUser, builds.BlameInfrastructure, builds.BlameQuota, builds.BlameTimeout
	for _, c := range []struct {
		name  string
		pod   *corev1.Pod
		blame imagebuilderv1.Blame // zero for success
		says  string
	}{
		{"success", examplePod(workerEnded(0, "Completed", goodMessage)), 0, ""},
		{"success of a worker that was then evicted", examplePod(workerEnded(137, "Error", goodMessage), failedFor(reasonEvicted, "The node was low on resource: memory.")), 0, ""},
		{"user's error", examplePod(workerEnded(1, "Error", userMessage)), user, "exit code 1"},
		{"user's error in a pod that was then drained", examplePod(workerEnded(1, "Error", userMessage), disruptedBy(reasonEvictionAPI)), user, "exit code 1"},
		{"infrastructure, as the worker says", examplePod(workerEnded(1, "Error", infraMessage)), infra, "BuildKit daemon failed"},
		{"BuildKit out of memory", examplePod(workerEnded(1, "Error", infraMessage), sidecarKilled(containerBuildKit, false)), quota, "memory"},
		{"BuildKit out of memory, started again", examplePod(workerEnded(1, "Error", infraMessage), sidecarKilled(containerBuildKit, true)), quota, "memory"},
		{"proxy out of memory", examplePod(workerEnded(1, "Error", infraMessage), sidecarKilled(containerProxy, true)), infra, "registry-proxy"},
		{"worker out of memory", examplePod(workerEnded(137, reasonOOM, "")), infra, "worker"},
		{"evicted", examplePod(failedFor(reasonEvicted, "The node was low on resource: ephemeral-storage.")), infra, "evicted"},
		{"too much disk", examplePod(failedFor(reasonEvicted, `Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. `)), quota, "disk"},
		{"too much disk in a volume", examplePod(failedFor(reasonEvicted, `Usage of EmptyDir volume "state" exceeds the limit "1Gi". `)), quota, "disk"},
		{"too much disk in a container", examplePod(failedFor(reasonEvicted, `Container buildkit exceeded its local ephemeral storage limit "1Gi". `)), quota, "disk"},
		{"deadline", examplePod(failedFor(reasonDeadline, "Pod was active on the node longer than the specified deadline")), timeout, "deadline"},
		{"preempted", examplePod(disruptedBy(reasonPreempted), deletedAt(now)), infra, "preempted"},
		{"preempted by the kubelet", examplePod(failedFor(reasonPreempting, "")), infra, "critical pod"},
		{"drained", examplePod(disruptedBy(reasonEvictionAPI), deletedAt(now)), infra, "drained"},
		{"drained, as the worker says as well", examplePod(disruptedBy(reasonEvictionAPI), workerEnded(1, "Error", infraMessage)), infra, "drained"},
		{"node lost", examplePod(disruptedBy(reasonTaintManager), deletedAt(now)), infra, "lost"},
		{"node lost, by its status", examplePod(failedFor(reasonNodeLost, "")), infra, "lost"},
		{"node removed", examplePod(disruptedBy(reasonPodGC), failedFor("", "")), infra, "removed"},
		{"node shut down", examplePod(failedFor(reasonNodeShutdown, "Pod was terminated in response to imminent node shutdown.")), infra, "shut down"},
		{"ended by the kubelet", examplePod(disruptedBy(reasonKubelet)), infra, "node n1 ended"},
		{"deleted by somebody", examplePod(deletedAt(now)), infra, "deleted"},
		{"deleted by somebody, as the worker says as well", examplePod(workerEnded(1, "Error", infraMessage), deletedAt(now)), infra, "deleted during its build"},
		{"user's error in a pod that was then deleted", examplePod(workerEnded(1, "Error", userMessage), deletedAt(now)), user, "exit code 1"},
		{"vanished", examplePod(), infra, "vanished"},
		{"failed without a reason", examplePod(failedFor("", "")), infra, "no reason given"},
		{"worker without a word", examplePod(workerEnded(2, "Error", "")), infra, "exit code 2"},
		{"worker that cannot start", examplePod(workerEnded(128, "StartError", "exec: not found")), infra, "exec: not found"},
		{"worker with something else to say", examplePod(workerEnded(1, "Error", `{"blame":"BLAME_OF_ANOTHER_VERSION"}`)), infra, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := judge(c.pod)
			if c.blame == 0 {
				if err != nil || out.Digest != "sha256:aa" || out.SizeBytes != 7 {
					t.Errorf("got %+v, %v", out, err)
				}
				return
			}
			var f *workload.Failure
			if !errors.As(err, &f) {
				t.Fatalf("got %+v, %v", out, err)
			}
			if f.Blame != c.blame || !strings.Contains(f.Message, c.says) {
				t.Errorf("%v: %s; want %v and %q", f.Blame, f.Message, c.blame, c.says)
			}
		})
	}
}

// Test_Over checks which pods are over.
func Test_Over(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		pod  *corev1.Pod
		want bool
	}{
		"new":                  {examplePod(), false},
		"worker ended":         {examplePod(workerEnded(0, "", "")), true},
		"failed":               {examplePod(failedFor("", "")), true},
		"sidecar ended":        {examplePod(sidecarKilled(containerBuildKit, true)), false},
		"being deleted":        {examplePod(deletedAt(now.Add(-time.Second))), false},
		"deleted on lost node": {examplePod(deletedAt(now), disruptedBy(reasonTaintManager)), true},
		"deleted for long":     {examplePod(deletedAt(now.Add(-2 * time.Minute))), true},
		"to be evicted":        {examplePod(disruptedBy(reasonEvictionAPI)), false},
	} {
		if got := over(c.pod, now); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// Test_Pending is the table of the problems that keep pods from starting, and of their limits.
func Test_Pending(t *testing.T) {
	o := &Options{PendingTimeout: time.Hour, ImageTimeout: time.Minute}
	waiting := func(reason, message string) podChange {
		return func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: containerWorker, Image: "img", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}}
		}
	}
	unscheduled := func(reason string) podChange {
		return func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: reason, Message: "0/3 nodes"}}
		}
	}
	for name, c := range map[string]struct {
		pod  *corev1.Pod
		want time.Duration // -1 for no problem
		says string
	}{
		"new":               {examplePod(), -1, ""},
		"pulls its image":   {examplePod(waiting("ContainerCreating", "")), -1, ""},
		"waits for a node":  {examplePod(unscheduled(corev1.PodReasonUnschedulable)), time.Hour, "0/3 nodes"},
		"gated":             {examplePod(unscheduled(corev1.PodReasonSchedulingGated)), time.Hour, "gate"},
		"cannot pull":       {examplePod(waiting("ErrImagePull", "denied")), time.Minute, "denied"},
		"cannot pull again": {examplePod(waiting("ImagePullBackOff", "")), time.Minute, "img"},
		"no image name":     {examplePod(waiting(reasonInvalidImageName, "")), time.Nanosecond, "img"},
		"no Secret yet":     {examplePod(waiting("CreateContainerConfigError", "secret not found")), time.Minute, "secret not found"},
		"crashes":           {examplePod(waiting("CrashLoopBackOff", "")), time.Minute, "again and again"},
	} {
		p := pending(c.pod, o)
		if c.want < 0 {
			if p.kind != "" {
				t.Errorf("%s: is %s", name, p.kind)
			}
			continue
		}
		if p.limit != c.want || p.failure.Blame != builds.BlameInfrastructure || !strings.Contains(p.failure.Message, c.says) {
			t.Errorf("%s: %v, %+v", name, p.limit, p.failure)
		}
	}
}
