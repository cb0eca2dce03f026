//go:build kubernetes

package kubelet

import (
	"fmt"
	"os"
	"path/filepath"
)

// Addresses of the cluster. Each cluster has the same, in its own network namespace.
const (
	// Address is the address of the machine. Pods use it to reach servers of tests.
	Address = "10.99.0.1"
	// APIAddress is the address of the API server for pods.
	APIAddress = serviceIP
	serviceIP  = "10.0.0.1"
	apiServer  = "https://" + serviceIP + ":443"
	podSubnet  = "10.244.0.0/24"
	nodeName   = "localhost"
	// PlainRegistry is a registry from which pods can pull their images without TLS.
	PlainRegistry = Address + ":5099"
	cniDir        = "/usr/lib/cni"
	socket        = "/run/containerd/containerd.sock"
)

// HostAddresses are further addresses of the machine, for nodes of the service.
var HostAddresses = []string{"10.99.0.11", "10.99.0.12", "10.99.0.13"}

const containerdConfig = `version = 2
root = %q
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs",
	"io.containerd.snapshotter.v1.devmapper", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing", "io.containerd.internal.v1.opt"]
[grpc]
address = "` + socket + `"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "` + PauseImage + `"
disable_tcp_service = true
restrict_oom_score_adj = true # root may lack CAP_SYS_RESOURCE
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = %q
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "` + cniDir + `"
conf_dir = %q
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
`

const cniConfig = `{"cniVersion": "0.4.0", "name": "pods", "plugins": [
	{"type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "hairpinMode": true, "ipMasq": false,
	 "ipam": {"type": "host-local", "subnet": "` + podSubnet + `", "dataDir": "/run/cni-addresses"}},
	{"type": "loopback"}
]}
`

// Some machines have control groups of version 1. The limits are low, so that the kubelet neither
// removes images nor evicts pods for lack of resources on the machine.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 127.0.0.1
readOnlyPort: 0
healthzPort: 10248
tlsCertFile: %[1]s/kubelet-server.crt
tlsPrivateKeyFile: %[1]s/kubelet-server.key
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: %[1]s/ca.crt}}
authorization: {mode: Webhook}
containerRuntimeEndpoint: unix://` + socket + `
cgroupDriver: cgroupfs
cgroupRoot: /%[2]s
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
resolvConf: ""
podLogsDir: %[1]s/pod-logs
evictionHard: {memory.available: 50Mi, nodefs.available: 1%%, imagefs.available: 1%%, nodefs.inodesFree: 1%%}
imageGCHighThresholdPercent: 100
makeIPTablesUtilChains: false
registerNode: true
maxPods: 110
syncFrequency: 10s
nodeStatusUpdateFrequency: 2s
volumeStatsAggPeriod: 5s
shutdownGracePeriod: 0s
`

// writeSettings writes the configuration files of a cluster.
func writeSettings(dir, cgroup string) error {
	net := filepath.Join(dir, "cni")
	if err := os.MkdirAll(net, 0o755); err != nil {
		return err
	}
	certs := filepath.Join(dir, "registries")
	if err := os.MkdirAll(filepath.Join(certs, PlainRegistry), 0o755); err != nil {
		return err
	}
	for file, text := range map[string]string{
		"registries/" + PlainRegistry + "/hosts.toml": fmt.Sprintf("[host.%q]\ncapabilities = [\"pull\", \"resolve\"]\n", "http://"+PlainRegistry),
		"containerd.toml":   fmt.Sprintf(containerdConfig, filepath.Join(dir, "containerd"), certs, net),
		"cni/pods.conflist": cniConfig,
		"kubelet.yaml":      fmt.Sprintf(kubeletConfig, dir, cgroup),
	} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}
