package registry

import (
	"context"
	"fmt"
)

// credentialFor returns the credential for a repository of a host (docs/gitpod-contract.md, section
// 9), in this order: the install's credential, if the rights permit it and there is one; the
// request's own, unless the host is that of the workspace images; none. The install's credential
// comes from the docker config, or from the first Provider for the host. Helpers and providers are
// called within ctx; their failures are *kindError.
func (c *Client) credentialFor(ctx context.Context, host, repository string, r Rights) (credential, error) {
	host = c.canonical(host)
	if c.mayUseInstallCredential(host, r) {
		if cred, err := c.installCredential(ctx, host, repository); err != nil || !cred.anonymous() {
			return cred, err
		}
	}
	if host == c.workspaceHost {
		return credential{}, nil
	}
	own := func(b Basic) (credential, error) {
		return credential{username: b.Username, password: b.Password, source: "the request"}, nil
	}
	for _, name := range aliases(host) {
		if b, ok := r.Additional[name]; ok {
			return own(b)
		}
	}
	for name, b := range r.Additional {
		if c.canonical(configHost(name)) == host {
			return own(b)
		}
	}
	return credential{}, nil
}

// mayUseInstallCredential reports whether a request may use the install's credential for a
// canonical host, if there is one.
func (c *Client) mayUseInstallCredential(host string, r Rights) bool {
	return r.AllowAll || c.containsHost(r.Hosts, host) || c.opts.AllowedByDefault != nil && c.opts.AllowedByDefault(host)
}

// installCredential returns the install's credential, or the anonymous one if there is none.
func (c *Client) installCredential(ctx context.Context, host, repository string) (credential, error) {
	if e, ok := c.config.lookup(host, repository, c.canonical); ok && e.helper == "" {
		return e.cred, nil
	} else if ok {
		origin := fmt.Sprintf("the credential helper %s for %s", e.helper, e.name)
		cred, err := c.logins.get(ctx, "helper\x00"+e.helper+"\x00"+e.server, func(ctx context.Context) (Login, error) {
			return c.login(ctx, origin, func(ctx context.Context) (Login, error) { return runHelper(ctx, e.helper, e.server) })
		})
		if err != nil || !cred.anonymous() {
			cred.source = origin
			return cred, err
		}
	}
	for _, p := range c.opts.Providers {
		if !p.Matches(host) {
			continue
		}
		origin := "the provider " + p.Name()
		cred, err := c.logins.get(ctx, "provider\x00"+p.Name()+"\x00"+host, func(ctx context.Context) (Login, error) {
			return c.login(ctx, origin, func(ctx context.Context) (Login, error) { return p.Login(ctx, host) })
		})
		cred.source = origin
		return cred, err
	}
	return credential{}, nil
}

// login calls fetch. It logs a failure and makes its text safe to show.
func (c *Client) login(ctx context.Context, origin string, fetch func(context.Context) (Login, error)) (Login, error) {
	l, err := fetch(ctx)
	if err != nil {
		err = loginError(origin, err)
		c.opts.Logger.Warn("cannot get a registry credential", "from", origin, "err", err)
	}
	return l, err
}

// aliases returns the spellings of a host that are looked up first, so that the choice does not
// depend on the order of a map.
func aliases(host string) []string {
	if host == dockerHub {
		return []string{dockerHub, hubServer, "index.docker.io", "registry-1.docker.io"}
	}
	return []string{host}
}

func (c *Client) containsHost(hosts []string, host string) bool {
	for _, h := range hosts {
		if c.canonical(h) == host {
			return true
		}
	}
	return false
}

// canonical is canonicalHost for the plain HTTP hosts of this client.
func (c *Client) canonical(host string) string {
	return canonicalHost(host, c.plain.has(host))
}
