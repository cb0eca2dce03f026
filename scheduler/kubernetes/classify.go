package kubernetes

import (
	"fmt"
	"strings"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	corev1 "k8s.io/api/core/v1"

	"github.com/image-builder-ha/image-builder/builds"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/podapi"
)

// Reasons that Kubernetes gives (k8s.io/kubernetes, pkg/kubelet and
// pkg/controller; the API types name only some of them).
const (
	reasonEvicted          = "Evicted"
	reasonDeadline         = "DeadlineExceeded"
	reasonNodeLost         = "NodeLost"
	reasonPreempting       = "Preempting"
	reasonNodeShutdown     = "Terminated"
	reasonOOM              = "OOMKilled"
	reasonTaintManager     = "DeletionByTaintManager"
	reasonEvictionAPI      = "EvictionByEvictionAPI"
	reasonPodGC            = "DeletionByPodGC"
	reasonPreempted        = corev1.PodReasonPreemptionByScheduler
	reasonKubelet          = corev1.PodReasonTerminationByKubelet
	reasonImageNeverPull   = "ErrImageNeverPull"
	reasonInvalidImageName = "InvalidImageName"
)

// over reports whether a pod's work has ended, or will never be heard of
// again.
func over(p *corev1.Pod, now time.Time) bool {
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed || terminated(p, containerWorker) != nil {
		return true
	}
	if p.DeletionTimestamp == nil {
		return false
	}
	// A node that is lost does not confirm that its pods have ended.
	return disruption(p) == reasonTaintManager || now.Sub(p.DeletionTimestamp.Time) > time.Minute
}

// explained reports whether a pod's state says why it ended, or will not say more.
func explained(p *corev1.Pod) bool {
	ended := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	return ended && terminated(p, containerWorker) != nil || p.DeletionTimestamp != nil || disrupted(p) != nil
}

// judge says how a pod's work ended, once it is over or the pod was deleted.
// What the worker said counts first if it is a success or about the build; what
// happened to the pod explains the rest.
func judge(p *corev1.Pod) (workload.Outcome, error) {
	res, err := resultOf(p)
	said := err == nil
	if said && res.Digest != "" {
		return res.Outcome()
	}
	if said && res.Blame != builds.BlameInfrastructure.String() {
		return res.Outcome()
	}
	if f := disrupted(p); f != nil {
		return workload.Outcome{}, f
	}
	if said {
		return refine(res, p)
	}
	t := terminated(p, containerWorker)
	switch {
	case t != nil:
		return workload.Outcome{}, infra("the worker of pod %s ended with exit code %d (%s) without telling how the build ended%s", p.Name, t.ExitCode, orUnknown(t.Reason), colon(t.Message))
	case p.DeletionTimestamp != nil:
		return workload.Outcome{}, infra("the pod %s was deleted while it built, by no node of this service", p.Name)
	case p.Status.Phase == corev1.PodFailed:
		return workload.Outcome{}, infra("the pod %s failed (%s)%s", p.Name, orUnknown(p.Status.Reason), colon(p.Status.Message))
	}
	return workload.Outcome{}, infra("the pod %s vanished from the cluster while it built", p.Name)
}

// refine explains an infrastructure failure that a worker told by what happened
// to its pod.
func refine(res podapi.Result, p *corev1.Pod) (workload.Outcome, error) {
	if res.Blame == builds.BlameInfrastructure.String() && p != nil {
		if f := disrupted(p); f != nil {
			return workload.Outcome{}, f
		}
		if p.DeletionTimestamp != nil {
			return workload.Outcome{}, infra("the pod %s was deleted while it built, by no node of this service%s", p.Name, colon(res.Message))
		}
	}
	return res.Outcome()
}

// disrupted answers what Kubernetes did to a pod that explains its end, nil if
// nothing.
func disrupted(p *corev1.Pod) *workload.Failure {
	switch {
	case p.Status.Reason == reasonDeadline:
		return fail(builds.BlameTimeout, "the pod %s was ended at its deadline: the build takes longer than it may", p.Name)
	case p.Status.Reason == reasonEvicted && overLimit(p.Status.Message):
		return fail(builds.BlameQuota, "the pod %s used more disk than it may: write less in the build, or have the limit raised%s", p.Name, colon(p.Status.Message))
	case p.Status.Reason == reasonEvicted:
		return infra("the node %s ran short of a resource and evicted the pod %s%s", p.Spec.NodeName, p.Name, colon(p.Status.Message))
	case p.Status.Reason == reasonNodeLost:
		return infra("the node %s of the pod %s was lost", p.Spec.NodeName, p.Name)
	case p.Status.Reason == reasonPreempting:
		return infra("the pod %s had to make room for a critical pod on node %s", p.Name, p.Spec.NodeName)
	case p.Status.Reason == reasonNodeShutdown:
		return infra("the node %s shut down and ended the pod %s", p.Spec.NodeName, p.Name)
	}
	switch reason := disruption(p); reason {
	case reasonPreempted:
		return infra("the pod %s was preempted by one of higher priority: give build pods a priority class if that happens often", p.Name)
	case reasonTaintManager:
		return infra("the node %s of the pod %s was lost or tainted", p.Spec.NodeName, p.Name)
	case reasonEvictionAPI:
		return infra("the pod %s was evicted through the API, as when its node %s is drained", p.Name, p.Spec.NodeName)
	case reasonPodGC:
		return infra("the node %s of the pod %s was removed from the cluster", p.Spec.NodeName, p.Name)
	case reasonKubelet:
		return infra("the node %s ended the pod %s%s", p.Spec.NodeName, p.Name, colon(conditionMessage(p, corev1.DisruptionTarget)))
	}
	return outOfMemory(p)
}

// outOfMemory tells whose container exceeded its memory.
func outOfMemory(p *corev1.Pod) *workload.Failure {
	for _, s := range statuses(p) {
		if !killedForMemory(s.State) && !killedForMemory(s.LastTerminationState) {
			continue
		}
		if s.Name == containerBuildKit {
			return fail(builds.BlameQuota, "the build needs more memory than the BuildKit container of its pod may have: use less, or have the limit raised")
		}
		return infra("the container %s of the pod %s needs more memory than it may have: raise its limit in the configuration", s.Name, p.Name)
	}
	return nil
}

func killedForMemory(s corev1.ContainerState) bool {
	return s.Terminated != nil && s.Terminated.Reason == reasonOOM
}

// overLimit tells a pod that exceeded its own limit from a node that is short
// of disk (kubelet's eviction messages).
func overLimit(message string) bool {
	return strings.Contains(message, "exceeds the total limit of containers") ||
		strings.Contains(message, "exceeded its local ephemeral storage limit") ||
		strings.Contains(message, "exceeds the limit") && strings.Contains(message, "EmptyDir")
}

// resultOf reads the worker's termination message.
func resultOf(p *corev1.Pod) (podapi.Result, error) {
	t := terminated(p, containerWorker)
	if t == nil {
		return podapi.Result{}, fmt.Errorf("the worker of pod %s has not ended", p.Name)
	}
	return podapi.DecodeResult(t.Message)
}

func terminated(p *corev1.Pod, container string) *corev1.ContainerStateTerminated {
	for _, s := range p.Status.ContainerStatuses {
		if s.Name == container {
			return s.State.Terminated
		}
	}
	return nil
}

// disruption is the reason of the pod's DisruptionTarget condition, "" for
// none.
func disruption(p *corev1.Pod) string {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue {
			return c.Reason
		}
	}
	return ""
}

func conditionMessage(p *corev1.Pod, t corev1.PodConditionType) string {
	for _, c := range p.Status.Conditions {
		if c.Type == t {
			return c.Message
		}
	}
	return ""
}

func infra(format string, args ...any) *workload.Failure {
	return fail(builds.BlameInfrastructure, format, args...)
}

func fail(blame imagebuilderv1.Blame, format string, args ...any) *workload.Failure {
	return &workload.Failure{Blame: blame, Message: fmt.Sprintf(format, args...)}
}

func orUnknown(reason string) string {
	if reason == "" {
		return "no reason given"
	}
	return reason
}

func colon(message string) string {
	if message == "" {
		return ""
	}
	return ": " + message
}
