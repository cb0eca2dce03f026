package config

import "net/url"

// webPage answers whether the web page is served, "on" or "off", where the
// configuration leaves it open, before publicURL is filled in. What stands
// there in other words is for validateWebPage to refuse.
func (c *Config) webPage() string {
	switch {
	case c.HTTP.UI != "auto":
		return c.HTTP.UI
	case c.HTTP.Listens() == "" || c.HTTP.PublicURL != "" || c.Orchestrator.WSManager.Address != "" || c.webPageOpensMore():
		return "off"
	}
	return "on"
}

// webPageOpensMore reports whether the HTTP port would show builds to callers
// that the gRPC port refuses.
func (c *Config) webPageOpensMore() bool {
	return c.Server.Services.GRPC.TLS.ClientAuth == "require" && (c.HTTP.TLS.ClientAuth != "require" || c.HTTP.TLS.CAPath == "")
}

func (c *Config) validateWebPage(bad func(key, format string, args ...any)) {
	switch c.HTTP.UI {
	case "on":
		if c.HTTP.Listens() == "" {
			bad("http.ui", "needs http.address")
		}
		if c.webPageOpensMore() {
			bad("http.ui", "would show builds to callers that gRPC refuses: set http.tls.clientAuth to require, with a caPath, or turn the page off")
		}
	case "off", "auto":
	default:
		bad("http.ui", "must be on, off or auto")
	}
	for _, n := range c.HTTP.Nodes {
		if u, err := url.Parse(n); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || n != u.Scheme+"://"+u.Host {
			bad("http.nodes", "%q is no URL of a port; write http://host:port", n)
		}
	}
}
