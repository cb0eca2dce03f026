package kubernetes

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/image-builder-ha/image-builder/builds"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/podapi"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// Reasons that Kubernetes reports (k8s.io/kubernetes, pkg/kubelet and pkg/controller; the API types
// name only some of them).
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

// over reports whether the work of a pod has ended, or its end will never be reported.
func over(p *corev1.Pod, now time.Time) bool {
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed || terminated(p, containerWorker) != nil {
		return true
	}
	if p.DeletionTimestamp == nil {
		return false
	}
	// A lost node never confirms the end of its pods.
	return disruption(p) == reasonTaintManager || now.Sub(p.DeletionTimestamp.Time) > time.Minute
}

// explained reports whether the state of a pod says why it ended, or will never say more.
func explained(p *corev1.Pod) bool {
	ended := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	return ended && terminated(p, containerWorker) != nil || p.DeletionTimestamp != nil || disrupted(p) != nil
}

// judge returns the outcome of a pod that is over or was deleted. A success, or a failure of the
// build itself, comes from the result of the worker. Any other failure is explained by what
// happened to the pod.
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
		return workload.Outcome{}, infra("the worker of pod %s ended with exit code %d (%s) without reporting how the build ended%s", p.Name, t.ExitCode, orUnknown(t.Reason), colon(t.Message))
	case p.DeletionTimestamp != nil:
		return workload.Outcome{}, infra("the pod %s was deleted during its build, but not by this service", p.Name)
	case p.Status.Phase == corev1.PodFailed:
		return workload.Outcome{}, infra("the pod %s failed (%s)%s", p.Name, orUnknown(p.Status.Reason), colon(p.Status.Message))
	}
	return workload.Outcome{}, infra("the pod %s vanished from the cluster during its build", p.Name)
}

// refine replaces an infrastructure failure that the worker reported by a better explanation from
// the state of its pod, if there is one.
func refine(res podapi.Result, p *corev1.Pod) (workload.Outcome, error) {
	if res.Blame == builds.BlameInfrastructure.String() && p != nil {
		if f := disrupted(p); f != nil {
			return workload.Outcome{}, f
		}
		if p.DeletionTimestamp != nil {
			return workload.Outcome{}, infra("the pod %s was deleted during its build, but not by this service%s", p.Name, colon(res.Message))
		}
	}
	return res.Outcome()
}

// disrupted returns the failure that Kubernetes caused by ending the pod, or nil if it did not.
func disrupted(p *corev1.Pod) *workload.Failure {
	switch {
	case p.Status.Reason == reasonDeadline:
		return fail(builds.BlameTimeout, "the pod %s was ended at its deadline: the build exceeded its time limit", p.Name)
	case p.Status.Reason == reasonEvicted && overLimit(p.Status.Message):
		return fail(builds.BlameQuota, "the pod %s exceeded its disk limit: write less in the build, or have the limit raised%s", p.Name, colon(p.Status.Message))
	case p.Status.Reason == reasonEvicted:
		return infra("the node %s ran short of a resource and evicted the pod %s%s", p.Spec.NodeName, p.Name, colon(p.Status.Message))
	case p.Status.Reason == reasonNodeLost:
		return infra("the node %s of the pod %s was lost", p.Spec.NodeName, p.Name)
	case p.Status.Reason == reasonPreempting:
		return infra("the pod %s was evicted in favor of a critical pod on node %s", p.Name, p.Spec.NodeName)
	case p.Status.Reason == reasonNodeShutdown:
		return infra("the node %s shut down and ended the pod %s", p.Spec.NodeName, p.Name)
	}
	switch reason := disruption(p); reason {
	case reasonPreempted:
		return infra("the pod %s was preempted by a pod of higher priority: if this happens often, give build pods a priority class", p.Name)
	case reasonTaintManager:
		return infra("the node %s of the pod %s was lost or tainted", p.Spec.NodeName, p.Name)
	case reasonEvictionAPI:
		return infra("the pod %s was evicted through the API, for example because its node %s is drained", p.Name, p.Spec.NodeName)
	case reasonPodGC:
		return infra("the node %s of the pod %s was removed from the cluster", p.Spec.NodeName, p.Name)
	case reasonKubelet:
		return infra("the node %s ended the pod %s%s", p.Spec.NodeName, p.Name, colon(conditionMessage(p, corev1.DisruptionTarget)))
	}
	return outOfMemory(p)
}

// outOfMemory returns the failure of the first container that exceeded its memory limit, or nil.
func outOfMemory(p *corev1.Pod) *workload.Failure {
	for _, s := range statuses(p) {
		if !killedForMemory(s.State) && !killedForMemory(s.LastTerminationState) {
			continue
		}
		if s.Name == containerBuildKit {
			return fail(builds.BlameQuota, "the build needs more memory than the limit of the BuildKit container of its pod: use less, or have the limit raised")
		}
		return infra("the container %s of the pod %s needs more memory than its limit: raise the limit in the configuration", s.Name, p.Name)
	}
	return nil
}

func killedForMemory(s corev1.ContainerState) bool {
	return s.Terminated != nil && s.Terminated.Reason == reasonOOM
}

// overLimit reports whether the kubelet's eviction message says that the pod exceeded its own disk
// limit, and not that the node is short of disk.
func overLimit(message string) bool {
	return strings.Contains(message, "exceeds the total limit of containers") ||
		strings.Contains(message, "exceeded its local ephemeral storage limit") ||
		strings.Contains(message, "exceeds the limit") && strings.Contains(message, "EmptyDir")
}

// resultOf decodes the termination message of the worker.
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

// disruption returns the reason of the pod's DisruptionTarget condition, or "" if there is none.
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

// reachable reports whether the worker runs and has an address.
func reachable(p *corev1.Pod) bool {
	if p.Status.PodIP == "" {
		return false
	}
	for _, s := range p.Status.ContainerStatuses {
		if s.Name == containerWorker {
			return s.State.Running != nil
		}
	}
	return false
}
