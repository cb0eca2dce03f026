package registry

import (
	"net"
	"strings"
)

// dockerHub is the canonical name of Docker Hub.
const dockerHub = "docker.io"

// canonicalHost returns the same string for all spellings of a registry host: upper and lower case,
// a trailing dot, the default port of the scheme, and the aliases of Docker Hub. No other hosts are
// equal: there are no patterns, suffixes or prefixes.
func canonicalHost(host string, plain bool) string {
	host = strings.ToLower(host)
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		name, port = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"), ""
	}
	name = strings.TrimSuffix(name, ".")
	if port == "443" && !plain || port == "80" && plain {
		port = ""
	}
	switch name {
	case "index.docker.io", "registry-1.docker.io":
		name = dockerHub
	}
	if port != "" {
		return net.JoinHostPort(name, port)
	}
	return name
}

// hostSet is a set of hosts. An entry with a port matches only that port; an entry without a port
// matches any port.
type hostSet map[string]struct{}

func newHostSet(hosts ...string) hostSet {
	set := make(hostSet, len(hosts))
	for _, h := range hosts {
		if h != "" {
			set[hostKey(h)] = struct{}{}
		}
	}
	return set
}

// has reports whether host, with or without a port, is in the set.
func (s hostSet) has(host string) bool {
	key := hostKey(host)
	if _, ok := s[key]; ok {
		return true
	}
	name, _, err := net.SplitHostPort(key)
	if err != nil {
		return false
	}
	_, ok := s[name]
	return ok
}

// hostKey is like canonicalHost but removes no default port, because the sets also hold addresses.
func hostKey(host string) string {
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		return canonicalHost(host, false)
	}
	return net.JoinHostPort(canonicalHost(name, false), port)
}

// configHost returns the host in a key of a docker config file. Keys may be URLs, as in
// https://index.docker.io/v1/.
func configHost(key string) string {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	host, _, _ := strings.Cut(key, "/")
	return host
}
