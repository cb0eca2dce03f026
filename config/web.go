package config

import "net/url"

// webPage returns the value of http.ui for a node: "on" or "off" instead of "auto". Complete has to
// call it before it sets http.publicURL. Wrong values are returned as they are, and validateWebPage
// reports them.
func (c *Config) webPage() string {
	switch {
	case c.HTTP.UI != "auto":
		return c.HTTP.UI
	case c.HTTP.Listens() == "" || c.HTTP.PublicURL != "" || c.Orchestrator.WSManager.Address != "" || c.webPageOpensMore():
		return "off"
	}
	return "on"
}

// webPageOpensMore reports whether the HTTP port would show builds to callers that the gRPC port
// refuses.
func (c *Config) webPageOpensMore() bool {
	return c.Server.Services.GRPC.TLS.ClientAuth == "require" && (c.HTTP.TLS.ClientAuth != "require" || c.HTTP.TLS.CAPath == "")
}

func (c *Config) validateWebPage(bad report) {
	switch c.HTTP.UI {
	case "on":
		if c.HTTP.Listens() == "" {
			bad("http.ui", "needs http.address")
		}
		if c.webPageOpensMore() {
			bad("http.ui", "would show builds to callers that gRPC refuses: set http.tls.clientAuth to require and http.tls.caPath, or set http.ui to off")
		}
	case "off", "auto":
	default:
		bad("http.ui", "must be on, off or auto")
	}
	for _, n := range c.HTTP.Nodes {
		if u, err := url.Parse(n); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || n != u.Scheme+"://"+u.Host {
			bad("http.nodes", "%q is not the URL of a port; write http://host:port", n)
		}
	}
}
