package node

import (
	"github.com/image-builder-ha/image-builder/scheduler/buildkit"
)

// openBuildKit returns the runtime for Dockerfile builds, or nil if no daemon is configured.
func (n *Node) openBuildKit() (*buildkit.Runtime, error) {
	c := n.cfg.BuildKit
	if len(c.Addresses) == 0 {
		return nil, nil
	}
	o := buildkit.Options{
		Registry:        registryAdapter{n.registry},
		Credentials:     n.credential,
		Contexts:        n.contextStore(),
		HTTP:            n.requestHTTP(),
		TempDir:         n.tempDir(),
		ContextBytes:    c.MaxContextBytes,
		CacheRepository: c.CacheRepository,
		Frontends:       c.Frontends,
		Networks:        c.Networks,
		Tracer:          n.tracing.Work(),
		Log:             n.log,
	}
	for _, a := range c.Addresses {
		d := buildkit.Address{URL: a}
		if c.TLS.Cert != "" {
			d.TLS = &buildkit.TLS{CA: c.TLS.CA, Cert: c.TLS.Cert, Key: c.TLS.Key}
		}
		o.Daemons = append(o.Daemons, d)
	}
	return buildkit.New(o)
}
