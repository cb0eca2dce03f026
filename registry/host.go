package registry

import (
	"net"
	"strings"
)

// dockerHub is the name by which all aliases of Docker Hub are known here.
const dockerHub = "docker.io"

// canonicalHost makes spellings of one registry host equal: case, a trailing
// dot, the port that is the default for the scheme, and the aliases of Docker
// Hub. Nothing else is equal: there are no patterns, no suffixes, no prefixes.
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

// hostSet holds hosts, each with a port (that port only) or without (any).
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

// hostKey is like canonicalHost, but takes no port for a default one: these
// sets hold addresses too.
func hostKey(host string) string {
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		return canonicalHost(host, false)
	}
	return net.JoinHostPort(canonicalHost(name, false), port)
}

// configHost answers the host that a key of a docker config file names; keys
// may be URLs, as in https://index.docker.io/v1/.
func configHost(key string) string {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	host, _, _ := strings.Cut(key, "/")
	return host
}
