package kubernetes

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/image-builder-ha/image-builder/builds"
)

// problem is the reason why a pod does not start.
type problem struct {
	// kind distinguishes problems: each has its own limit.
	kind string
	// limit is how long the problem may last; zero for as long as the build may take.
	limit   time.Duration
	failure *workload.Failure
}

// pending returns the problem that keeps a pod from starting. It returns the zero problem for
// normal delays, such as the pull of an image or the attachment of a volume.
func pending(p *corev1.Pod, o *Options) problem {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return unscheduled(p, c, o)
		}
	}
	for _, s := range statuses(p) {
		w := s.State.Waiting
		if w == nil {
			continue
		}
		switch w.Reason {
		case "ErrImagePull", "ImagePullBackOff", "ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed":
			return problem{"image", o.ImageTimeout, infra("the image %s of the container %s cannot be pulled to node %s%s: check its name and the pull secrets in the configuration", s.Image, s.Name, p.Spec.NodeName, colon(w.Message))}
		case reasonInvalidImageName, reasonImageNeverPull:
			return problem{"image name", time.Nanosecond, infra("the image %s of the container %s cannot be used (%s)%s: change it in the configuration", s.Image, s.Name, w.Reason, colon(w.Message))}
		case "CreateContainerConfigError", "CreateContainerError", "RunContainerError", "CreatePodSandboxError":
			return problem{"container", o.ImageTimeout, infra("the container %s of the pod %s cannot be started on node %s (%s)%s", s.Name, p.Name, p.Spec.NodeName, w.Reason, colon(w.Message))}
		case "CrashLoopBackOff":
			return problem{"crash", o.ImageTimeout, infra("the container %s of the pod %s ends again and again%s%s: read its log; the nodes may not support the security profile", s.Name, p.Name, colon(w.Message), colon(lastWords(s)))}
		}
	}
	return problem{}
}

// unscheduled returns the problem of a pod that has no node. A cluster that scales up reports the
// same as a full one, so this counts as waiting until the limit.
func unscheduled(p *corev1.Pod, c corev1.PodCondition, o *Options) problem {
	if c.Reason == corev1.PodReasonSchedulingGated {
		return problem{"gated", o.PendingTimeout, infra("the pod %s was held back by a scheduling gate for %s", p.Name, o.PendingTimeout)}
	}
	return problem{"unschedulable", o.PendingTimeout, infra("no node had room for the pod %s within %s%s: add nodes, lower the resource requests of build pods, or allow fewer builds at a time", p.Name, o.PendingTimeout, colon(c.Message))}
}

func lastWords(s corev1.ContainerStatus) string {
	if t := s.LastTerminationState.Terminated; t != nil {
		return fmt.Sprintf("exit code %d%s", t.ExitCode, colon(strings.TrimSpace(t.Message)))
	}
	return ""
}

// createProblem classifies an error of creating an object. retry reports whether the error may
// pass. p holds the failure: without retry it applies at once, otherwise once the error has lasted
// for p.limit.
func createProblem(err error, what string, o *Options) (p problem, retry bool) {
	switch {
	// A new quota, or one whose controller is behind, has no status yet.
	case apierrors.IsForbidden(err) && (strings.Contains(err.Error(), "exceeded quota") || strings.Contains(err.Error(), "status unknown for quota")):
		return problem{"quota", o.QuotaTimeout, fail(builds.BlameQuota, "the quota of the namespace %s left no room to %s within %s: %v: raise the quota, or allow fewer builds at a time", o.Namespace, what, o.QuotaTimeout, err)}, true
	case errors.As(err, new(*credentialsError)):
		return problem{"credentials", o.RightsTimeout, infra("the registry credentials that are needed to %s were not available for %s: %v", what, o.RightsTimeout, err)}, true
	case apierrors.IsForbidden(err) && strings.Contains(err.Error(), "being terminated"):
		return problem{failure: infra("the namespace %s is being deleted", o.Namespace)}, false
	// An API server that has just started refuses all requests until it has read the roles.
	case apierrors.IsForbidden(err) && strings.Contains(err.Error(), "cannot ") && strings.Contains(err.Error(), "in API group"):
		return problem{"rights", o.RightsTimeout, infra("Kubernetes refuses to %s for %s: %v: give this service's account the rights of deploy/kubernetes in the namespace %s", what, o.RightsTimeout, err, o.Namespace)}, true
	case apierrors.IsForbidden(err), apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsRequestEntityTooLargeError(err):
		return problem{failure: infra("Kubernetes refuses to %s: %v: check the pod options, the security policy of the namespace %s and the rights of this service's account", what, err, o.Namespace)}, false
	case apierrors.IsNotFound(err):
		return problem{failure: infra("the namespace %s, or an object in it that is needed to %s, does not exist: %v", o.Namespace, what, err)}, false
	case apierrors.IsUnauthorized(err):
		return problem{"account", o.QuotaTimeout, infra("Kubernetes does not know this service's account any more: %v", err)}, true
	}
	// The API, or a webhook of it, is unavailable or overloaded.
	return problem{"api", 0, nil}, true
}
