package registry

import "context"

// Credentials answers, by host, every credential that a request with these
// rights may present, of the hosts that the install's file and the request name
// and of those given: for those who have to decide elsewhere, without this
// client. Entries of single repositories are left out. Helpers and providers
// are asked, within ctx. Hosts whose credential is not to be had now are in failed:
// they are not ones without a credential. Names of hosts are canonical; docker.io
// is Docker Hub. An empty user name means that the password is an identity token.
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
