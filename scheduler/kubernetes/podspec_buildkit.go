package kubernetes

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// addBuildKit adds the BuildKit container and what it shares with the worker.
func addBuildKit(spec *corev1.PodSpec, p *PodOptions) {
	c := corev1.Container{
		Name: containerBuildKit, Image: p.Images.BuildKit, ImagePullPolicy: p.ImagePullPolicy,
		RestartPolicy: ptr(corev1.ContainerRestartPolicyAlways),
		Args:          []string{"--addr", socketURL},
		Env: []corev1.EnvVar{
			// Logs are bounded where they are stored.
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
		// The user of the worker owns the socket. Processes of builds share
		// BuildKit's process namespace: a plain user cannot mount another /proc.
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

// stateDir is where the images of BuildKit keep their data.
func stateDir(p Profile) string {
	if p == Rootless {
		return "/home/user/.local/share/buildkit"
	}
	return "/var/lib/buildkit"
}
