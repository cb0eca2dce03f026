package config

import (
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
)

// Kubernetes describes the pods of the runtime kubernetes.
type Kubernetes struct {
	Namespace  string `json:"namespace" doc:"Namespace of the pods, preferably one for them alone. Empty: the namespace of this node's own pod."`
	Install    string `json:"install" doc:"Label that distinguishes installations in one namespace. Each installation needs its own. Empty: cluster.name."`
	Kubeconfig string `json:"kubeconfig" doc:"File that names the API server and an account. Empty: the account of the pod that this node runs in."`
	QPS        int    `json:"qps" doc:"Requests of this node to the API server per second."`
	Burst      int    `json:"burst" doc:"Number of requests that may be sent at once in addition to qps."`

	Images           KubernetesImages    `json:"images" doc:"Images of the containers."`
	ImagePullPolicy  string              `json:"imagePullPolicy" doc:"Always, IfNotPresent or Never. Empty: the default of Kubernetes."`
	ImagePullSecrets []string            `json:"imagePullSecrets" doc:"Names of secrets in that namespace, for these images."`
	Profile          string              `json:"profile" doc:"Isolation of BuildKit: rootless (no root), userns (root of a user namespace of the pod, hostUsers: false), privileged (root of the node: a build can take over the node)."`
	ServiceAccount   string              `json:"serviceAccount" doc:"Service account of the pods. Its token is never mounted."`
	Resources        KubernetesResources `json:"resources" doc:"Requests and limits of the containers, ephemeral-storage included, in the form of Kubernetes: {requests: {cpu: 1}, limits: {memory: 4Gi}}."`
	StateSize        string              `json:"stateSize" doc:"Limit of BuildKit's disk, such as 20Gi. Empty: no limit."`
	SpoolSize        string              `json:"spoolSize" doc:"Limit of the worker's disk, for contexts and output. Empty: no limit."`
	SpoolBytes       int64               `json:"spoolBytes" doc:"Output that a worker keeps until all copies of its log have it, in bytes, at least 16 MiB. The build waits when it is full."`
	CacheVolume      Raw                 `json:"cacheVolume" doc:"Volume for BuildKit's disk that outlives the pod, in the form of a pod's spec without the name. No two pods may use it at the same time. Empty: a new empty volume for each pod."`
	CacheWrite       bool                `json:"cacheWrite" doc:"Let builds write to buildkit.cacheRepository. If false, they only read it."`

	NodeSelector  map[string]string `json:"nodeSelector" doc:"Labels of the nodes that run the pods."`
	Tolerations   Raw               `json:"tolerations" doc:"Tolerations, in the form of a pod's spec."`
	Affinity      Raw               `json:"affinity" doc:"Affinity, in the form of a pod's spec."`
	PriorityClass string            `json:"priorityClass" doc:"Name of a PriorityClass."`
	RuntimeClass  string            `json:"runtimeClass" doc:"Name of a RuntimeClass, such as one of gVisor or Kata."`
	SchedulerName string            `json:"schedulerName" doc:"Name of another scheduler. Empty: the default of Kubernetes."`
	Labels        map[string]string `json:"labels" doc:"Additional labels of the pods."`
	Annotations   map[string]string `json:"annotations" doc:"Additional annotations of the pods."`
	PodTemplate   Raw               `json:"podTemplate" doc:"Part of a pod that is merged into each pod last, by a strategic merge: {spec: {dnsPolicy: Default}}."`
	MaxPods       int               `json:"maxPods" doc:"Number of pods at a time. Further builds wait. Each node counts for itself and does not see pods that other nodes create at the same moment; a ResourceQuota is exact. 0: no limit."`

	Timeouts KubernetesTimeouts `json:"timeouts" doc:"Time limits of the steps of a pod."`
}

// KubernetesImages names the images of the pods.
type KubernetesImages struct {
	Worker   string `json:"worker" doc:"The image of this service, in the version of this node."`
	BuildKit string `json:"buildkit" doc:"moby/buildkit, or its rootless variant for the profile rootless."`
}

// KubernetesResources has the requests and limits of the containers of a pod.
type KubernetesResources struct {
	Worker   Raw `json:"worker" doc:"The container that fetches contexts and drives BuildKit."`
	BuildKit Raw `json:"buildkit" doc:"The container that builds."`
	Proxy    Raw `json:"proxy" doc:"The container that connects to registries."`
}

// KubernetesTimeouts bounds the steps of a pod.
type KubernetesTimeouts struct {
	Pending     Duration `json:"pending" doc:"Wait for a place on a node, for example while the cluster grows. 0: until the build's deadline."`
	Quota       Duration `json:"quota" doc:"Wait for room in the quota of the namespace."`
	Image       Duration `json:"image" doc:"Wait for images that cannot be pulled, and for containers that cannot start."`
	Silent      Duration `json:"silent" doc:"Wait for a running worker that is unreachable."`
	Linger      Duration `json:"linger" doc:"How long a finished worker waits until a node has fetched its output."`
	Termination Duration `json:"termination" doc:"How long containers of a deleted pod may take to end."`
}

func defaultKubernetes() Kubernetes {
	d := func(v time.Duration) Duration { return Duration(v) }
	return Kubernetes{
		QPS: 20, Burst: 40, ImagePullSecrets: []string{}, Profile: string(kubernetes.Rootless), SpoolBytes: 256 << 20, CacheWrite: true,
		NodeSelector: map[string]string{}, Labels: map[string]string{}, Annotations: map[string]string{},
		Timeouts: KubernetesTimeouts{
			Quota: d(10 * time.Minute), Image: d(3 * time.Minute), Silent: d(10 * time.Minute), Linger: d(15 * time.Minute), Termination: d(30 * time.Second),
		},
	}
}

func (k *Kubernetes) complete(cluster string) {
	if k.Namespace == "" {
		k.Namespace = kubernetes.OwnNamespace()
	}
	if k.Install == "" {
		k.Install = cluster
	}
}
