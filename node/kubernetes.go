package node

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpproxy"

	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/proxy"
)

// openKubernetes opens the runtime that builds in pods, or answers nil if it
// runs nothing. It does not wait for the API.
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

func readPEM(key, file string) (string, error) {
	if file == "" {
		return "", nil
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("%s: read it for build pods: %w", key, err)
	}
	return string(raw), nil
}

// podPeers answers the nodes that are pods behind a service.
func (n *Node) podPeers(ctx context.Context) ([]string, error) {
	k := n.cfg.Cluster.Kubernetes
	if k.Service == "" {
		return nil, nil
	}
	client, err := n.peersAPI()
	if err != nil {
		return nil, err
	}
	// A look for peers takes two seconds in all: an API that hangs leaves time to
	// ask the peers that are known otherwise.
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return kubernetes.Peers(ctx, client, k.Namespace, k.Service)
}

// labelLeader gives this node's pod the label of the leader, in each term.
func (n *Node) labelLeader(ctx context.Context, _ *cluster.Term) error {
	k := n.cfg.Cluster.Kubernetes
	if !k.Label {
		return nil
	}
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		client, err := n.peersAPI()
		if err == nil {
			ask, cancel := context.WithTimeout(ctx, 10*time.Second)
			err = kubernetes.LabelLeader(ask, client, k.Namespace, n.cfg.Name)
			cancel()
		}
		if err == nil || ctx.Err() != nil {
			return nil
		}
		n.log.Warn("the leader's pod is not labelled, will try again", "after", wait, "err", err)
		if !ctxutil.Sleep(ctx, wait) {
			return nil
		}
	}
}

// podCredentials are the registry credentials that go into pods.
type podCredentials struct{ node *Node }

var _ kubernetes.Credentials = podCredentials{}

// Readable answers what a request may present, of all hosts that are named
// anywhere: helpers and clouds are not asked for those that nobody names.
func (c podCredentials) Readable(ctx context.Context, rights *buildsv1.Rights) (map[string]proxy.Auth, map[string]error) {
	r := rightsOf(rights)
	own := repositories(c.node.cfg)
	hosts := slices.Concat(r.Hosts, []string{own.BaseHost, own.WorkspaceHost}, slices.Collect(maps.Keys(c.node.cfg.Registry.Hosts)))
	for _, h := range c.node.cfg.Registry.Hosts {
		for _, m := range h.Mirrors {
			host, _, _ := strings.Cut(m, "/")
			hosts = append(hosts, host)
		}
	}
	found, failed := c.node.registry.Credentials(ctx, r, hosts...)
	out := map[string]proxy.Auth{}
	for host, b := range found {
		out[host] = proxy.Auth{User: b.Username, Password: b.Password}
	}
	return out, failed
}

// Own answers what the install presents to one of its own repositories.
func (c podCredentials) Own(ctx context.Context, host string) (proxy.Auth, bool, error) {
	user, password, err := c.node.credential(ctx, host, nil, true)
	return proxy.Auth{User: user, Password: password}, password != "", err
}
