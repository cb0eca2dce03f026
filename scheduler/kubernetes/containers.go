package kubernetes

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Names of containers and volumes, paths of files, ports.
const (
	containerWorker   = "worker"
	containerBuildKit = "buildkit"
	containerProxy    = "registry-proxy"

	volumeJob    = "job"
	volumeProxy  = "proxy"
	volumeSocket = "socket"
	volumeState  = "state"
	volumeSpool  = "spool"

	jobDir    = "/run/image-builder/job"
	proxyDir  = "/run/image-builder/proxy"
	socketDir = "/run/image-builder/buildkit"
	spoolDir  = "/var/lib/image-builder"
	jobFile   = "job.json"
	proxyFile = "proxy.json"

	socketURL       = "unix://" + socketDir + "/buildkitd.sock"
	proxyAddr       = "127.0.0.1:5000"
	workerPort      = 8443
	terminationPath = "/dev/termination-log"
)

// userID is the user of the worker and the proxy, and of BuildKit if it is rootless.
const userID int64 = 1000

// containers calls f for all containers of a pod.
func containers(spec *corev1.PodSpec, f func(*corev1.Container)) {
	for _, list := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range list {
			f(&list[i])
		}
	}
}

// statuses returns the states of all containers that the pod reports.
func statuses(p *corev1.Pod) []corev1.ContainerStatus {
	return slices.Concat(p.Status.ContainerStatuses, p.Status.InitContainerStatuses)
}

func ptr[T any](v T) *T { return &v }
