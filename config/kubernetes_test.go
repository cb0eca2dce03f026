package config

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
)

const podConfig = `
name: ib-0
orchestrator: {baseImageRepository: reg.example.com/base, workspaceImageRepository: reg.example.com/workspace}
runtimes: {ref: kubernetes, dockerfile: kubernetes}
buildkit: {cacheRepository: reg.example.com/cache, frontends: [docker.io/me/frontend]}
kubernetes:
  namespace: builds
  images: {worker: image-builder:1, buildkit: buildkit:1}
  imagePullPolicy: Never
  imagePullSecrets: [pull]
  profile: userns
  serviceAccount: builder
  resources:
    buildkit: {requests: {cpu: 2, memory: 4Gi, ephemeral-storage: 20Gi}, limits: {memory: 8Gi}}
  stateSize: 20Gi
  nodeSelector: {pool: builds}
  tolerations: [{key: builds, operator: Exists}]
  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}
  runtimeClass: gvisor
  cacheVolume: {hostPath: {path: /cache}}
  podTemplate: {spec: {dnsPolicy: Default}}
  maxPods: 7
  timeouts: {pending: 5m, termination: 40s}
registry:
  hosts: {docker.io: {mirrors: [mirror.example.com/hub], requestsPerSecond: 2.5}}
`

// Test_Config_Kubernetes checks that every kind of key reaches the options of the runtime.
func Test_Config_Kubernetes(t *testing.T) {
	cfg, _, err := load(t, podConfig)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Complete()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	o, err := cfg.KubernetesOptions()
	if err != nil {
		t.Fatal(err)
	}
	p := o.Pod
	got := map[string]any{
		"names": []string{o.Namespace, o.Install, o.Node, p.Images.Worker, p.Images.BuildKit, string(p.Profile), p.ServiceAccount, string(p.ImagePullPolicy), p.ImagePullSecrets[0], p.RuntimeClass},
		"disk":  []string{p.BuildKit.Requests.StorageEphemeral().String(), p.StateSize.String(), p.Cache.HostPath.Path},
		"cpu":   p.BuildKit.Requests.Cpu().String(),
		"place": []string{p.NodeSelector["pool"], p.Tolerations[0].Key, p.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchExpressions[0].Key},
		"patch": string(p.Patch),
		"times": []time.Duration{o.PendingTimeout, o.QuotaTimeout, time.Duration(p.TerminationSeconds) * time.Second},
		"build": []string{o.CacheRepository, o.Frontends[0]},
		"max":   o.MaxPods,
		"write": o.CacheWrite,
	}
	want := map[string]any{
		"names": []string{"builds", "image-builder", "ib-0", "image-builder:1", "buildkit:1", "userns", "builder", "Never", "pull", "gvisor"},
		"disk":  []string{"20Gi", "20Gi", "/cache"},
		"cpu":   "2",
		"place": []string{"builds", "builds", "a"},
		"patch": `{"spec":{"dnsPolicy":"Default"}}`,
		"times": []time.Duration{5 * time.Minute, 10 * time.Minute, 40 * time.Second},
		"build": []string{"reg.example.com/cache", "docker.io/me/frontend"},
		"max":   7,
		"write": true,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if h := cfg.Registry.HostOptions()["docker.io"]; len(h.Mirrors) != 1 || h.RequestsPerSecond != 2.5 {
		t.Errorf("registry.hosts: %+v", h)
	}
}

// Test_Config_KubernetesErrors checks that an error names its key.
func Test_Config_KubernetesErrors(t *testing.T) {
	for change, want := range map[string]string{
		"images: {worker: a, buildkit: ''}":     "kubernetes: the images",
		"profile: root":                         `"root" is not known`,
		"imagePullPolicy: Sometimes":            "kubernetes.imagePullPolicy:",
		"tolerations: [{key: a, operater: b}]":  "kubernetes.tolerations:",
		"affinity: {podAffinty: {}}":            "kubernetes.affinity:",
		"resources: {worker: {request: {}}}":    "kubernetes.resources.worker:",
		"resources: {worker: {limits: {cpu: x}": "kubernetes.resources.worker:",
		"stateSize: plenty":                     "kubernetes.stateSize:",
		"cacheVolume: {hostPth: {}}":            "kubernetes.cacheVolume:",
		"podTemplate: {spec: {dnsPolcy: x}}":    "podTemplate",
		"timeouts: {linger: 0s}":                "kubernetes.timeouts.linger:",
		"qps: 0":                                "kubernetes.qps:",
		"maxPods: -1":                           "but is -1",
		"nodeSelector: {a: 1}":                  "kubernetes.nodeSelector.a: must be a string",
	} {
		if strings.Count(change, "{") > strings.Count(change, "}") {
			change += "}}"
		}
		cfg, _, err := load(t, podConfig, "kubernetes:\n  "+change)
		if err == nil {
			cfg.Complete()
			err = cfg.Validate()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", change, err, want)
		}
	}
	if kubernetes.OwnNamespace() == "" {
		cfg, _, _ := load(t, podConfig, "kubernetes: {namespace: ''}")
		cfg.Complete()
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "namespace") {
			t.Errorf("no namespace: %v", err)
		}
	}
}

// Test_Config_PodPeers checks the keys that peers from the API of Kubernetes need.
func Test_Config_PodPeers(t *testing.T) {
	if kubernetes.OwnNamespace() != "" {
		t.Fatal("these tests run in a pod with an account of its own")
	}
	for text, want := range map[string]string{
		"cluster: {kubernetes: {service: nodes, namespace: a}}": "cluster.address: must be set if there are peers",
		"cluster: {address: ':7800', kubernetes: {service: s}}": "cluster.kubernetes.namespace: must be set",
	} {
		cfg, _, err := load(t, podConfig, text)
		if err == nil {
			cfg.Complete()
			err = cfg.Validate()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}
