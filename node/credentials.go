package node

import (
	"context"
	"maps"
	"slices"
	"strings"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/proxy"
)

// credential answers what a solve presents to a registry: for its own pushes
// what the install has, for pulls what the request may use. A daemon names only
// the host: entries of the docker config for a repository count where that is
// one of the install's own.
func (n *Node) credential(ctx context.Context, host string, rights *buildsv1.Rights, push bool) (user, password string, err error) {
	if !push {
		return n.registry.Credential(ctx, host, "", rightsOf(rights))
	}
	own := repositories(n.cfg)
	for _, repository := range []string{own.Base, own.Workspace} {
		if path, ok := strings.CutPrefix(repository, host+"/"); ok {
			return n.registry.Credential(ctx, host, path, installRights)
		}
	}
	return n.registry.Credential(ctx, host, "", installRights)
}

// installCredential answers what the cached references are refreshed with.
func (n *Node) installCredential(ctx context.Context, host, repository string) (user, password string, err error) {
	return n.registry.Credential(ctx, host, repository, installRights)
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
