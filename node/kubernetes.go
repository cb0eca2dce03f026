package node

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/net/http/httpproxy"

	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/proxy"
)

// openKubernetes returns the runtime that builds in pods, or nil if the configuration does not use
// it. It does not wait for the API server.
func (n *Node) openKubernetes() (*kubernetes.Runtime, error) {
	if !n.cfg.Uses(kubernetes.Name) {
		return nil, nil
	}
	o, err := n.cfg.KubernetesOptions()
	if err != nil {
		return nil, err
	}
	k := n.cfg.Kubernetes
	if o.Client, err = kubernetes.Connect(k.Kubeconfig, float32(k.QPS), k.Burst); err != nil {
		return nil, err
	}
	r := RegistryOptions(n.cfg, n.log, nil)
	if o.CA, err = readPEM("registry.caFile", r.CAFile); err != nil {
		return nil, err
	}
	o.Hosts = map[string]proxy.Host{}
	for name, h := range n.cfg.Registry.Hosts {
		ca, err := readPEM("registry.hosts."+name+".caFile", h.CAFile)
		if err != nil {
			return nil, err
		}
		o.Hosts[name] = proxy.Host{Mirrors: h.Mirrors, CA: ca, SkipVerify: h.SkipVerify}
		for _, m := range h.Mirrors {
			host, _, _ := strings.Cut(m, "/")
			r.AllowHosts = append(r.AllowHosts, host)
		}
	}
	o.Insecure, o.AllowHosts, o.AllowLoopback = r.Insecure, r.AllowHosts, r.AllowLoopback
	if env := httpproxy.FromEnvironment(); env.HTTPProxy != "" || env.HTTPSProxy != "" {
		o.HTTPProxy = &proxy.HTTPProxy{HTTP: env.HTTPProxy, HTTPS: env.HTTPSProxy, No: env.NoProxy}
	}
	o.ContextRef = n.contextStore().ref
	o.Credentials = podCredentials{n}
	o.Cluster = func() string { return n.cluster.Status().ClusterID }
	o.Log, o.Registerer = n.log, n.metrics
	return kubernetes.New(o)
}

// readPEM returns the content of a file that the configuration names under key, or "" without a
// file.
func readPEM(key, file string) (string, error) {
	if file == "" {
		return "", nil
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("%s: read the file for build pods: %w", key, err)
	}
	return string(raw), nil
}
