package registry

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/distribution/reference"
)

// HostOptions say how one registry host is spoken to.
type HostOptions struct {
	// Mirrors are asked first for what is pulled from the host, in order; the
	// host itself is the last. Each is host or host/path: the repository is put
	// behind the path, as in mirror.example.com/hub for docker.io's
	// library/ubuntu. A mirror is given its own credential, never the host's,
	// and whatever it answers but success leads to the next. Mirrors may have
	// any address.
	Mirrors []string
	// CAFile has certificates in PEM that are trusted for this host, beside
	// the system's and those of Options.CAFile.
	CAFile string
	// SkipVerify takes any certificate of this host. Redirects to other hosts
	// are verified.
	SkipVerify bool
	// RequestsPerSecond bounds what all Options.Sharers together ask of the
	// host, 0 for no bound. This process takes its equal part. What is above
	// waits.
	RequestsPerSecond float64
	// Concurrency bounds how many requests of all Options.Sharers to the host
	// wait for an answer at a time; those that upload a blob do not count. This
	// process takes its equal part, but at least one. 0 is Options.Concurrency
	// for this process alone.
	Concurrency int
}

// hostTable is the configuration by canonical host.
type hostTable struct {
	hosts   map[string]HostOptions
	mirrors map[string][]mirror
}

// mirror is a host and a path, "" for none.
type mirror struct{ host, path string }

func newHostTable(hosts map[string]HostOptions, canonical func(string) string) (hostTable, error) {
	t := hostTable{map[string]HostOptions{}, map[string][]mirror{}}
	for name, o := range hosts {
		host := canonical(name)
		if _, twice := t.hosts[host]; twice {
			return t, fmt.Errorf("configure registry hosts: %s is there twice", host)
		}
		if o.RequestsPerSecond < 0 || o.Concurrency < 0 {
			return t, fmt.Errorf("configure registry hosts: %s: a limit is negative", host)
		}
		t.hosts[host] = o
		for _, s := range o.Mirrors {
			m, err := parseMirror(s)
			if err != nil {
				return t, fmt.Errorf("configure registry hosts: %s: %w", host, err)
			}
			t.mirrors[host] = append(t.mirrors[host], m)
		}
	}
	return t, nil
}

func parseMirror(s string) (mirror, error) {
	host, path, _ := strings.Cut(s, "/")
	path = strings.TrimSuffix(path, "/")
	named, err := reference.ParseNormalizedNamed(host + "/" + strings.TrimPrefix(path+"/x", "/"))
	if err != nil || reference.Domain(named) != host || !reference.IsNameOnly(named) {
		return mirror{}, fmt.Errorf("the mirror %.64q is not of the form host or host/path", s)
	}
	return mirror{host, path}, nil
}

// repository is where the mirror has a repository of the host.
func (m mirror) repository(path string) string {
	if m.path == "" {
		return path
	}
	return m.path + "/" + path
}

// mirrorHosts are the hosts of all mirrors.
func mirrorHosts(hosts map[string]HostOptions) (out []string) {
	for _, o := range hosts {
		for _, m := range o.Mirrors {
			host, _, _ := strings.Cut(m, "/")
			out = append(out, host)
		}
	}
	return out
}

// proxied refuses what GuardedProxy does.
func (o *Options) proxied(req *http.Request) error {
	if o.Proxy == nil {
		return nil
	}
	_, err := GuardedProxy(AddressPolicy{AllowHosts: o.AllowHosts, AllowLoopback: o.AllowLoopback}, o.Proxy)(req)
	return err
}

// GuardedProxy answers the proxy for a request as choose does (which
// http.ProxyFromEnvironment is an example of), for a Transport whose Dial is
// GuardedDial. It refuses what the policy forbids and a proxy would reach for us:
// addresses, and the names of this host and of the clouds' metadata. Other names
// are for the proxy to judge, which resolves them. nil for a nil choose.
func GuardedProxy(policy AddressPolicy, choose func(*http.Request) (*url.URL, error)) func(*http.Request) (*url.URL, error) {
	if choose == nil {
		return nil
	}
	allowed := newHostSet(policy.AllowHosts...)
	return func(req *http.Request) (*url.URL, error) {
		u, err := choose(req)
		if err != nil || u == nil || allowed.has(req.URL.Host) {
			return u, err
		}
		name := strings.ToLower(strings.TrimSuffix(req.URL.Hostname(), "."))
		if ip := net.ParseIP(name); ip != nil {
			if err := (AddressPolicy{AllowLoopback: policy.AllowLoopback}).check(req.URL.Host, net.JoinHostPort(name, "443")); err != nil {
				return nil, err
			}
		}
		if name == "metadata.google.internal" || (name == "localhost" || strings.HasSuffix(name, ".localhost")) && !policy.AllowLoopback {
			return nil, &kindError{kind: Refused, text: fmt.Sprintf("%q may not be reached from requests; allow the host in the configuration if it is meant", name)}
		}
		return u, nil
	}
}
