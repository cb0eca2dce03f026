package registry

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/distribution/reference"
)

// HostOptions configure the requests to one registry host.
type HostOptions struct {
	// Mirrors are tried in order before the host for everything that is pulled from it. Each is
	// host or host/path. The repository is appended to the path: with mirror.example.com/hub,
	// docker.io's library/ubuntu becomes hub/library/ubuntu. A mirror gets its own credential,
	// never the host's. Any failure of a mirror leads to the next. Mirrors may have any address.
	Mirrors []string
	// CAFile holds certificates in PEM that are trusted for this host, in addition to the system's
	// and those of Options.CAFile.
	CAFile string
	// SkipVerify accepts any certificate of this host. Other hosts to which it redirects are
	// verified.
	SkipVerify bool
	// RequestsPerSecond bounds the rate of requests to the host by all Options.Sharers together; 0
	// for no bound. This process takes an equal share. Requests above the rate wait.
	RequestsPerSecond float64
	// Concurrency bounds how many requests of all Options.Sharers to the host wait for a response
	// at the same time. Uploads of blobs do not count. This process takes an equal share, at least
	// one. 0 means Options.Concurrency for this process alone.
	Concurrency int
}

// hostTable holds the configuration by canonical host.
type hostTable struct {
	hosts   map[string]HostOptions
	mirrors map[string][]mirror
}

// mirror is a host and a path; path "" for none.
type mirror struct{ host, path string }

func newHostTable(hosts map[string]HostOptions, canonical func(string) string) (hostTable, error) {
	t := hostTable{map[string]HostOptions{}, map[string][]mirror{}}
	for name, o := range hosts {
		host := canonical(name)
		if _, twice := t.hosts[host]; twice {
			return t, fmt.Errorf("configure registry hosts: %s appears twice", host)
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

// repository returns the mirror's repository for a repository of the host.
func (m mirror) repository(path string) string {
	if m.path == "" {
		return path
	}
	return m.path + "/" + path
}

// mirrorHosts returns the hosts of all mirrors.
func mirrorHosts(hosts map[string]HostOptions) (out []string) {
	for _, o := range hosts {
		for _, m := range o.Mirrors {
			host, _, _ := strings.Cut(m, "/")
			out = append(out, host)
		}
	}
	return out
}

// GuardedProxy wraps choose, which returns the proxy for a request as http.ProxyFromEnvironment
// does. It is for a Transport whose Dial is GuardedDial. The result refuses destinations that the
// policy forbids and that a proxy would connect to: IP addresses, and the names of this host and of
// cloud metadata services. All other names are resolved, and may be refused, by the proxy. If
// choose is nil, the result is nil.
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
			return nil, &kindError{kind: Refused, text: fmt.Sprintf("%q may not be reached from requests; if this is intended, allow the host in the configuration", name)}
		}
		return u, nil
	}
}

// mirrorTimeoutDivisor divides the client's Timeout; the quotient bounds how long a mirror may take
// until its response begins.
const mirrorTimeoutDivisor = 6
