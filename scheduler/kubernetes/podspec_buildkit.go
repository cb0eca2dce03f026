package kubernetes

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// addBuildKit adds the BuildKit container and the volumes that it shares with the worker.
func addBuildKit(spec *corev1.PodSpec, p *PodOptions) {
	c := corev1.Container{
		Name: containerBuildKit, Image: p.Images.BuildKit, ImagePullPolicy: p.ImagePullPolicy,
		RestartPolicy: ptr(corev1.ContainerRestartPolicyAlways),
		Args:          []string{"--addr", socketURL},
		Env: []corev1.EnvVar{
			// The log store limits the output instead.
			{Name: "BUILDKIT_STEP_LOG_MAX_SIZE", Value: "-1"},
			{Name: "BUILDKIT_STEP_LOG_MAX_SPEED", Value: "-1"},
		},
		Resources: p.BuildKit,
		VolumeMounts: []corev1.VolumeMount{
			{Name: volumeSocket, MountPath: socketDir},
			{Name: volumeState, MountPath: stateDir(p.Profile)},
		},
		TerminationMessagePath:   terminationPath,
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
	}
	switch p.Profile {
	case Rootless:
		// BuildKit and the worker run as the same user, so that the worker can use the socket.
		// Processes of builds share BuildKit's process namespace, because a plain user cannot mount
		// another /proc.
		c.Args = append(c.Args, "--oci-worker-no-process-sandbox")
		c.SecurityContext = &corev1.SecurityContext{
			RunAsUser: ptr(userID), RunAsGroup: ptr(userID),
			SeccompProfile:  &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined},
			AppArmorProfile: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined},
		}
	case UserNS:
		// Privileged within the pod's user namespace only.
		spec.HostUsers = ptr(false)
		c.Args = append(c.Args, "--group", strconv.FormatInt(userID, 10))
		c.SecurityContext = &corev1.SecurityContext{Privileged: ptr(true)}
	case Privileged:
		c.Args = append(c.Args, "--group", strconv.FormatInt(userID, 10))
		c.SecurityContext = &corev1.SecurityContext{Privileged: ptr(true)}
	}
	spec.InitContainers = append(spec.InitContainers, c)
	for i := range spec.Containers {
		spec.Containers[i].VolumeMounts = append(spec.Containers[i].VolumeMounts, corev1.VolumeMount{Name: volumeSocket, MountPath: socketDir})
	}
	state := emptyDir(p.StateSize)
	if p.Cache != nil {
		state = *p.Cache
	}
	spec.Volumes = append(spec.Volumes,
		corev1.Volume{Name: volumeSocket, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: ptr(resource.MustParse("1Mi"))}}},
		corev1.Volume{Name: volumeState, VolumeSource: state},
	)
}

func emptyDir(size resource.Quantity) corev1.VolumeSource {
	e := &corev1.EmptyDirVolumeSource{}
	if !size.IsZero() {
		e.SizeLimit = &size
	}
	return corev1.VolumeSource{EmptyDir: e}
}

// stateDir returns the folder in which the BuildKit image keeps its data.
func stateDir(p Profile) string {
	if p == Rootless {
		return "/home/user/.local/share/buildkit"
	}
	return "/var/lib/buildkit"
}
