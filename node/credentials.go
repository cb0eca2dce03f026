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

// credential returns the credential that a solve of BuildKit presents to a registry host: for
// pushes that of the install, for pulls one that the request may use. It is empty if there is none.
// BuildKit names only the host, so entries of the docker config for a single repository apply only
// to the install's own repositories.
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

// installCredential returns the credential of the install for a repository. Cached references are
// refreshed with it.
func (n *Node) installCredential(ctx context.Context, host, repository string) (user, password string, err error) {
	return n.registry.Credential(ctx, host, repository, installRights)
}

// podCredentials are the registry credentials for the proxy of a build pod.
type podCredentials struct{ node *Node }

var _ kubernetes.Credentials = podCredentials{}

// Readable returns the credentials that a request may use, by host, and the errors of providers by
// host. It looks only at hosts that the request or the configuration names, because every look can
// be a call of a credential helper or of a cloud API.
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

// Own returns the credential of the install for the host of one of its own repositories, and
// whether there is one.
func (c podCredentials) Own(ctx context.Context, host string) (proxy.Auth, bool, error) {
	user, password, err := c.node.credential(ctx, host, nil, true)
	return proxy.Auth{User: user, Password: password}, password != "", err
}
