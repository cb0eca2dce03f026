package registry

// Credentials answers, by host, every credential that a request with these
// rights may present: for those who have to decide elsewhere, without this
// client. Names of hosts are canonical; docker.io is Docker Hub. An empty user
// name means that the password is an identity token.
func (c *Client) Credentials(r Rights) map[string]Basic {
	hosts := map[string]bool{}
	for _, a := range c.config.current() {
		hosts[c.canonical(a.host)] = true
	}
	for name := range r.Additional {
		hosts[c.canonical(configHost(name))] = true
	}
	out := map[string]Basic{}
	for host := range hosts {
		if user, password := c.Credential(host, r); password != "" {
			out[host] = Basic{Username: user, Password: password}
		}
	}
	return out
}
