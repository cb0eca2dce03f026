package kubernetes

import (
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// deadlineSlack is the time from the deadline of a build until Kubernetes ends its pod, if the pod
// still runs because it has no owner.
const deadlineSlack = 5 * time.Minute

// podOf renders the pod of a workload. It is pure.
func podOf(o *Options, w *workload.Workload, install metav1.OwnerReference, now time.Time) (*corev1.Pod, error) {
	p := &o.Pod
	labels := maps.Clone(p.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, podLabels(o, w))
	pod := &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Name: w.Name(), Namespace: o.Namespace, Labels: labels, Annotations: annotations(p),
			OwnerReferences: []metav1.OwnerReference{install},
		},
		Spec: corev1.PodSpec{
			RestartPolicy:                 corev1.RestartPolicyNever,
			ServiceAccountName:            p.ServiceAccount,
			AutomountServiceAccountToken:  ptr(false), // builds must not use the API
			EnableServiceLinks:            ptr(false),
			TerminationGracePeriodSeconds: ptr(p.TerminationSeconds),
			ActiveDeadlineSeconds:         activeDeadline(w.Deadline, now),
			NodeSelector:                  p.NodeSelector,
			Tolerations:                   p.Tolerations,
			Affinity:                      p.Affinity,
			PriorityClassName:             p.PriorityClass,
			SchedulerName:                 p.SchedulerName,
			SecurityContext:               &corev1.PodSecurityContext{FSGroup: ptr(userID)},
			SchedulingGates:               []corev1.PodSchedulingGate{{Name: gateSecret}},
			InitContainers:                []corev1.Container{proxyContainer(p)},
			Containers:                    []corev1.Container{workerContainer(p)},
			Volumes: []corev1.Volume{
				secretVolume(volumeJob, w.Name(), jobFile),
				secretVolume(volumeProxy, w.Name(), proxyFile),
				{Name: volumeSpool, VolumeSource: emptyDir(p.SpoolSize)},
			},
		},
	}
	if p.RuntimeClass != "" {
		pod.Spec.RuntimeClassName = ptr(p.RuntimeClass)
	}
	for _, s := range p.ImagePullSecrets {
		pod.Spec.ImagePullSecrets = append(pod.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: s})
	}
	if w.Source.GetDockerfile() != nil {
		addBuildKit(&pod.Spec, p)
	}
	return patched(pod, p)
}

// gateSecret is the scheduling gate that keeps a pod without a node until its Secret exists.
// Otherwise the kubelet would fail to mount the Secret and back off.
const gateSecret = labelPrefix + "secret"

// gated reports whether the pod waits for its Secret.
func gated(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Spec.SchedulingGates, func(g corev1.PodSchedulingGate) bool { return g.Name == gateSecret })
}

// ungatePatch returns a strategic merge patch that removes the gate. Gates of others stay. The
// patch carries the UID, as ownerPatch does.
func ungatePatch(p *corev1.Pod) []byte {
	return fmt.Appendf(nil, `{"metadata":{"uid":%q},"spec":{"schedulingGates":[{"$patch":"delete","name":%q}]}}`, p.UID, gateSecret)
}

// annotations returns annotations that keep autoscalers from evicting a build.
func annotations(p *PodOptions) map[string]string {
	a := map[string]string{
		"cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
		"karpenter.sh/do-not-disrupt":                    "true",
		"kubectl.kubernetes.io/default-container":        containerWorker,
	}
	maps.Copy(a, p.Annotations)
	return a
}

func activeDeadline(deadline, now time.Time) *int64 {
	if deadline.IsZero() {
		return nil
	}
	return ptr(max(1, int64((deadline.Sub(now)+deadlineSlack).Round(time.Second)/time.Second)))
}

func workerContainer(p *PodOptions) corev1.Container {
	return corev1.Container{
		Name: containerWorker, Image: p.Images.Worker, ImagePullPolicy: p.ImagePullPolicy,
		Args:      []string{"worker", "--job", jobDir + "/" + jobFile},
		Ports:     []corev1.ContainerPort{{Name: "output", ContainerPort: workerPort, Protocol: corev1.ProtocolTCP}},
		Resources: p.Worker,
		VolumeMounts: []corev1.VolumeMount{
			{Name: volumeJob, MountPath: jobDir, ReadOnly: true},
			{Name: volumeSpool, MountPath: spoolDir},
		},
		TerminationMessagePath:   terminationPath,
		TerminationMessagePolicy: corev1.TerminationMessageReadFile,
		SecurityContext:          confined(),
	}
}

func proxyContainer(p *PodOptions) corev1.Container {
	return corev1.Container{
		Name: containerProxy, Image: p.Images.Worker, ImagePullPolicy: p.ImagePullPolicy,
		Args:                     []string{"registry-proxy", "--config", proxyDir + "/" + proxyFile},
		RestartPolicy:            ptr(corev1.ContainerRestartPolicyAlways),
		Resources:                p.Proxy,
		VolumeMounts:             []corev1.VolumeMount{{Name: volumeProxy, MountPath: proxyDir, ReadOnly: true}},
		TerminationMessagePath:   terminationPath,
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		SecurityContext:          confined(),
	}
}

// confined returns the security context of this service's own containers, which need no privileges.
func confined() *corev1.SecurityContext {
	return &corev1.SecurityContext{
		RunAsUser: ptr(userID), RunAsGroup: ptr(userID), RunAsNonRoot: ptr(true),
		AllowPrivilegeEscalation: ptr(false), ReadOnlyRootFilesystem: ptr(true),
		Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
}

// secretVolume returns a volume with one file of the pod's Secret.
func secretVolume(name, secret, file string) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{
		SecretName: secret, DefaultMode: ptr(int32(0o440)), Items: []corev1.KeyToPath{{Key: file, Path: file}},
	}}}
}
