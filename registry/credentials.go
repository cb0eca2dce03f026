package registry

import "context"

// Credentials returns, by host, every credential that a request with these rights may present. It
// covers the hosts in the install's docker config, the hosts of the request's own credentials, and
// the hosts given as arguments. It is for callers that make requests without this client. Entries
// for single repositories are left out.
//
// Helpers and providers are queried within ctx. failed holds an error for each host whose
// credential cannot be obtained now; such a host is not anonymous. Host names are canonical;
// docker.io is Docker Hub. An empty user name means that the password is an identity token.
func (c *Client) Credentials(ctx context.Context, r Rights, hosts ...string) (found map[string]Basic, failed map[string]error) {
	names := map[string]bool{}
	for _, h := range hosts {
		names[c.canonical(h)] = true
	}
	for _, a := range c.config.current().entries {
		names[c.canonical(a.host)] = true
	}
	for name := range r.Additional {
		names[c.canonical(configHost(name))] = true
	}
	found, failed = map[string]Basic{}, map[string]error{}
	for host := range names {
		cred, err := c.credentialFor(ctx, host, "", r)
		switch {
		case err != nil:
			failed[host] = wrap("find the credential for", host, err, cred)
		case cred.anonymous():
		case cred.identityToken != "":
			found[host] = Basic{Password: cred.identityToken}
		default:
			found[host] = Basic{Username: cred.username, Password: cred.password}
		}
	}
	return found, failed
}
