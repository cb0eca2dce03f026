package config

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
)

// Providers returns the credential providers of the identities of this process.
func (c Config) Providers() (all []registry.Provider) {
	names := c.Registry.Identities
	if c.Orchestrator.EnableAdditionalECRAuth && !slices.Contains(names, "ecr") {
		names = append(slices.Clone(names), "ecr")
	}
	for _, name := range names {
		all = append(all, identities[name]())
	}
	return all
}

// KubernetesOptions returns the configured options of the runtime kubernetes. Its errors name the
// keys, one per line.
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

// validateKubernetes checks the section if the runtime is used.
func (c *Config) validateKubernetes(bad report) {
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
			key, text, found := strings.Cut(strings.TrimSpace(line), ": ")
			if !found || !strings.HasPrefix(key, "kubernetes") {
				key, text = "kubernetes", line
			}
			bad(key, "%s", text)
		}
	}
}
