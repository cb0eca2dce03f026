package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/proxy"
)

// openKubernetes opens the runtime that builds in pods, or answers nil if it
// runs nothing. It does not wait for the API.
func (s *server) openKubernetes() (*kubernetes.Runtime, error) {
	if !s.cfg.uses(kubernetes.Name) {
		return nil, nil
	}
	o, err := s.cfg.kubernetesOptions()
	if err != nil {
		return nil, err
	}
	k := s.cfg.Kubernetes
	if o.Client, err = kubernetes.Connect(k.Kubeconfig, float32(k.QPS), k.Burst); err != nil {
		return nil, err
	}
	r := registryOptions(s.cfg, s.log, nil)
	if r.CAFile != "" {
		pem, err := os.ReadFile(r.CAFile)
		if err != nil {
			return nil, fmt.Errorf("registry.caFile: read it for build pods: %w", err)
		}
		o.CA = string(pem)
	}
	o.Insecure, o.AllowHosts, o.AllowLoopback = r.Insecure, r.AllowHosts, r.AllowLoopback
	o.ContextRef = s.contexts().ref
	o.Credentials = podCredentials{s}
	o.Log = s.log
	return kubernetes.New(o)
}

// podCredentials are the registry credentials that go into pods.
type podCredentials struct{ s *server }

var _ kubernetes.Credentials = podCredentials{}

// Readable answers what a request may present, of all hosts that are named
// anywhere: helpers and clouds are not asked for those that nobody names.
func (c podCredentials) Readable(ctx context.Context, rights *buildsv1.Rights) (map[string]proxy.Auth, error) {
	r := rightsOf(rights)
	own := repositories(c.s.cfg)
	hosts := slices.Concat(r.Hosts, []string{own.BaseHost, own.WorkspaceHost}, slices.Collect(maps.Keys(c.s.cfg.Registry.Hosts)))
	out := map[string]proxy.Auth{}
	for host, b := range c.s.registry.Credentials(ctx, r, hosts...) {
		out[host] = proxy.Auth{User: b.Username, Password: b.Password}
	}
	return out, ctx.Err()
}

// Own answers what the install presents to one of its own repositories.
func (c podCredentials) Own(ctx context.Context, host string) (proxy.Auth, bool, error) {
	user, password, err := c.s.credential(ctx, host, nil, true)
	return proxy.Auth{User: user, Password: password}, password != "", err
}
