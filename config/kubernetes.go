package config

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
)

// Raw is a part of a file that another package reads, as JSON.
type Raw json.RawMessage

// MarshalJSON renders it, null if there is nothing.
func (r Raw) MarshalJSON() ([]byte, error) { return json.RawMessage(r).MarshalJSON() }

// KubernetesConfig describes the pods of the runtime kubernetes.
type KubernetesConfig struct {
	Namespace  string `json:"namespace" doc:"Namespace of the pods, best one for them alone; that of this node's own pod if empty."`
	Install    string `json:"install" doc:"Tells installations in one namespace apart, by a label: each wants its own. cluster.name if empty."`
	Kubeconfig string `json:"kubeconfig" doc:"File that names the API and an account there. Empty: as the pod that this node runs in."`
	QPS        int    `json:"qps" doc:"Requests to the API per second, of this node."`
	Burst      int    `json:"burst" doc:"How many more may be sent at once."`

	Images           KubernetesImages    `json:"images" doc:"Images of the containers."`
	ImagePullPolicy  string              `json:"imagePullPolicy" doc:"Always, IfNotPresent or Never; Kubernetes' default if empty."`
	ImagePullSecrets []string            `json:"imagePullSecrets" doc:"Names of secrets in that namespace, for these images."`
	Profile          string              `json:"profile" doc:"How BuildKit is isolated: rootless (no root), userns (root of a user namespace of the pod, hostUsers: false), privileged (root of the node: builds can take it over)."`
	ServiceAccount   string              `json:"serviceAccount" doc:"Account of the pods, which never get its token."`
	Resources        KubernetesResources `json:"resources" doc:"Requests and limits of the containers, ephemeral-storage included, as Kubernetes has them: {requests: {cpu: 1}, limits: {memory: 4Gi}}."`
	StateSize        string              `json:"stateSize" doc:"Limit of BuildKit's disk, such as 20Gi; none if empty."`
	SpoolSize        string              `json:"spoolSize" doc:"Limit of the worker's disk, for contexts and output; none if empty."`
	SpoolBytes       int64               `json:"spoolBytes" doc:"Output that a worker keeps until a node has stored it, in bytes; the build waits beyond."`
	CacheVolume      Raw                 `json:"cacheVolume" doc:"Volume for BuildKit's disk that outlives the pod, as in a pod's spec without the name; no two pods may have it at a time. An empty one if not given."`
	CacheWrite       bool                `json:"cacheWrite" doc:"Let builds write to buildkit.cacheRepository; otherwise they only read it."`

	NodeSelector  map[string]string `json:"nodeSelector" doc:"Labels of the nodes that pods go to."`
	Tolerations   Raw               `json:"tolerations" doc:"As in a pod's spec."`
	Affinity      Raw               `json:"affinity" doc:"As in a pod's spec."`
	PriorityClass string            `json:"priorityClass" doc:"Name of a PriorityClass."`
	RuntimeClass  string            `json:"runtimeClass" doc:"Name of a RuntimeClass, as of gVisor or Kata."`
	SchedulerName string            `json:"schedulerName" doc:"Another scheduler than Kubernetes' own."`
	Labels        map[string]string `json:"labels" doc:"Further labels of pods."`
	Annotations   map[string]string `json:"annotations" doc:"Further annotations of pods."`
	PodTemplate   Raw               `json:"podTemplate" doc:"Part of a pod that is merged into each last, strategically: {spec: {dnsPolicy: Default}}."`
	MaxPods       int               `json:"maxPods" doc:"Pods at a time; further builds wait. Nodes count on their own, without the pods that others create at the same moment; a ResourceQuota is exact. 0: no limit."`

	Timeouts KubernetesTimeouts `json:"timeouts" doc:"How long is waited for what."`
}

// KubernetesImages are the images of pods.
type KubernetesImages struct {
	Worker   string `json:"worker" doc:"This service's own image, of this version."`
	BuildKit string `json:"buildkit" doc:"moby/buildkit; its rootless variant for that profile."`
}

// KubernetesResources are of a pod's containers.
type KubernetesResources struct {
	Worker   Raw `json:"worker" doc:"What fetches contexts and drives BuildKit."`
	BuildKit Raw `json:"buildkit" doc:"What builds."`
	Proxy    Raw `json:"proxy" doc:"What speaks to registries."`
}

// KubernetesTimeouts say how long is waited.
type KubernetesTimeouts struct {
	Pending     Duration `json:"pending" doc:"For a place on a node, as while the cluster grows. 0: until the build's deadline."`
	Quota       Duration `json:"quota" doc:"For room in the namespace's quota."`
	Image       Duration `json:"image" doc:"For images that cannot be pulled, and containers that cannot start."`
	Silent      Duration `json:"silent" doc:"For a worker that runs and cannot be reached."`
	Linger      Duration `json:"linger" doc:"A worker that has finished waits so long for its output to be fetched."`
	Termination Duration `json:"termination" doc:"For containers to end when their pod is deleted."`
}

func defaultKubernetes() KubernetesConfig {
	d := func(v time.Duration) Duration { return Duration(v) }
	return KubernetesConfig{
		QPS: 20, Burst: 40, ImagePullSecrets: []string{}, Profile: string(kubernetes.Rootless), SpoolBytes: 256 << 20, CacheWrite: true,
		NodeSelector: map[string]string{}, Labels: map[string]string{}, Annotations: map[string]string{},
		Timeouts: KubernetesTimeouts{
			Quota: d(10 * time.Minute), Image: d(3 * time.Minute), Silent: d(10 * time.Minute), Linger: d(15 * time.Minute), Termination: d(30 * time.Second),
		},
	}
}

func (k *KubernetesConfig) complete(cluster string) {
	if k.Namespace == "" {
		k.Namespace = kubernetes.OwnNamespace()
	}
	if k.Install == "" {
		k.Install = cluster
	}
}

// options are those of the runtime as far as they are configuration.
func (c *Config) KubernetesOptions() (kubernetes.Options, error) {
	k, t := c.Kubernetes, c.Kubernetes.Timeouts
	o := kubernetes.Options{
		Namespace: k.Namespace, Install: k.Install, Node: c.Name,
		Pod: kubernetes.PodOptions{
			Images: kubernetes.Images{Worker: k.Images.Worker, BuildKit: k.Images.BuildKit}, ImagePullSecrets: k.ImagePullSecrets,
			Profile: kubernetes.Profile(k.Profile), ServiceAccount: k.ServiceAccount, NodeSelector: k.NodeSelector,
			PriorityClass: k.PriorityClass, RuntimeClass: k.RuntimeClass, SchedulerName: k.SchedulerName,
			Labels: k.Labels, Annotations: k.Annotations, TerminationSeconds: int64(time.Duration(t.Termination) / time.Second),
		},
		CacheRepository: c.BuildKit.CacheRepository, CacheWrite: k.CacheWrite,
		Frontends: c.BuildKit.Frontends, Networks: c.BuildKit.Networks, ContextBytes: c.BuildKit.MaxContextBytes,
		MaxPods: k.MaxPods, SpoolBytes: k.SpoolBytes,
		PendingTimeout: time.Duration(t.Pending), QuotaTimeout: time.Duration(t.Quota), ImageTimeout: time.Duration(t.Image),
		SilentTimeout: time.Duration(t.Silent), Linger: time.Duration(t.Linger),
	}
	if err := o.Pod.SetPullPolicy(k.ImagePullPolicy); err != nil {
		return o, err
	}
	raw := func(r Raw) json.RawMessage { return json.RawMessage(r) }
	return o, kubernetes.PodFields{
		Worker: raw(k.Resources.Worker), BuildKit: raw(k.Resources.BuildKit), Proxy: raw(k.Resources.Proxy),
		Tolerations: raw(k.Tolerations), Affinity: raw(k.Affinity), Cache: raw(k.CacheVolume), Patch: raw(k.PodTemplate),
		StateSize: k.StateSize, SpoolSize: k.SpoolSize,
	}.Read(&o.Pod)
}

// validateKubernetes checks what the runtime needs if it is used.
func (c *Config) validateKubernetes(bad func(key, format string, args ...any)) {
	if !c.Uses(kubernetes.Name) {
		return
	}
	k := c.Kubernetes
	for key, v := range map[string]int64{
		"qps": int64(k.QPS), "burst": int64(k.Burst), "spoolBytes": k.SpoolBytes,
		"timeouts.quota": int64(k.Timeouts.Quota), "timeouts.image": int64(k.Timeouts.Image), "timeouts.silent": int64(k.Timeouts.Silent),
		"timeouts.linger": int64(k.Timeouts.Linger), "timeouts.termination": int64(k.Timeouts.Termination / Duration(time.Second)),
	} {
		if v <= 0 {
			bad("kubernetes."+key, "must be greater than zero")
		}
	}
	if k.Timeouts.Pending < 0 {
		bad("kubernetes.timeouts.pending", "must not be negative")
	}
	o, err := c.KubernetesOptions()
	if err == nil {
		err = o.Check()
	}
	if err != nil {
		for line := range strings.Lines(err.Error()) {
			key, what, found := strings.Cut(strings.TrimSpace(line), ": ")
			if !found || !strings.HasPrefix(key, "kubernetes") {
				key, what = "kubernetes", line
			}
			bad(key, "%s", fmt.Sprint(what))
		}
	}
}
