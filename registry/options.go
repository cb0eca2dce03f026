package registry

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Options configure a Client. The zero Options are usable: no credentials, TLS for all hosts except
// loopback names, and no loopback address allowed.
type Options struct {
	// DockerConfigFile is a docker config.json with the credentials of the install; "" for none. It
	// is read again whenever it changes.
	DockerConfigFile string
	// Providers make credentials from an identity of this process, for hosts without an entry in
	// the docker config. The first provider that matches the host is used.
	Providers []Provider
	// AllowedByDefault reports whether every request may use the install's credential for a host,
	// whatever its Rights. nil means no host. It must compare whole canonical names. Gitpod allows
	// Amazon's private registries this way, because the policy of the AWS identity says who may
	// read there.
	AllowedByDefault func(host string) bool
	// WorkspaceHost is the registry host of the workspace images. Rights.Additional is never used
	// for it.
	WorkspaceHost string
	// Insecure lists hosts (name, or name:port) that are contacted by plain HTTP, beside localhost,
	// 127.0.0.1 and ::1. All other hosts are contacted by TLS.
	Insecure []string
	// CAFile holds certificates in PEM that are trusted in addition to the system's.
	CAFile string
	// Hosts holds options of single registry hosts, by name.
	Hosts map[string]HostOptions
	// Proxy returns the proxy for a request, as http.ProxyFromEnvironment does; nil for no proxy. A
	// proxy resolves names by itself. So the AddressPolicy then sees only the proxy's address and
	// IP addresses that are written in references and redirects.
	Proxy func(*http.Request) (*url.URL, error)
	// Concurrency bounds how many requests of this process to one host wait for a response at the
	// same time. Default 64.
	Concurrency int
	// Sharers returns the number of processes that share the limits in Hosts, including this one.
	// It is called often and must not block. nil and values below 1 mean that this process is
	// alone.
	Sharers func() int
	// Bandwidth bounds the bytes of blobs per second that all copies of this process transfer
	// together; 0 for no bound.
	Bandwidth int64
	// CacheFor is how long the results of successful look-ups are cached: the digest of a tag, and
	// that an image exists. 0 disables the cache. A push or tag by this client invalidates the
	// entries of its repository at once; a push by others is seen when the entry expires. That an
	// image does not exist is never cached.
	CacheFor time.Duration
	// Kept returns the digest to which a reference (normalized, with its tag) resolves for
	// linux/amd64, if it is known locally. It must not block. Resolve uses it by the rule of type
	// Kept. nil for none.
	Kept func(ref string) (Kept, bool)
	// Registerer receives the metrics of docs/metrics.md; nil for none.
	Registerer prometheus.Registerer
	// AllowHosts and AllowLoopback are the AddressPolicy of all connections.
	AllowHosts    []string
	AllowLoopback bool
	// Dial connects; nil for GuardedDial with the policy above. A custom Dial is not guarded. It is
	// meant for tests that serve foreign names.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Timeout bounds a look-up with its retries, each request of a copy, and the time for which the
	// transfer of a blob may stall. Default 30 seconds.
	Timeout time.Duration
	// Retries is how often a failed request is repeated if the error may be temporary. Default 4;
	// negative for never.
	Retries int
	// RetryBase is the pause before the first retry. It doubles with each retry, up to 5 seconds;
	// half of it is random. Default 200 ms.
	RetryBase time.Duration
	// Parallel is how many blobs one copy transfers at the same time. Default 4.
	Parallel int
	// Logger receives messages for operators; nil for slog.Default.
	Logger *slog.Logger
}

const (
	defaultTimeout   = 30 * time.Second
	defaultRetries   = 4
	defaultRetryBase = 200 * time.Millisecond
	defaultParallel  = 4
	defaultPerHost   = 64
	// maxSessions bounds the number of sessions. Requests may name any number of repositories and
	// credentials.
	maxSessions = 512
)

func (o *Options) setDefaults() {
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	if o.Retries == 0 {
		o.Retries = defaultRetries
	}
	if o.RetryBase <= 0 {
		o.RetryBase = defaultRetryBase
	}
	if o.Parallel <= 0 {
		o.Parallel = defaultParallel
	}
	if o.Concurrency <= 0 {
		o.Concurrency = defaultPerHost
	}
	if o.Sharers == nil {
		o.Sharers = func() int { return 1 }
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	o.AllowHosts = append(slices.Clone(o.AllowHosts), mirrorHosts(o.Hosts)...)
	if o.Dial == nil {
		o.Dial = GuardedDial(AddressPolicy{AllowHosts: o.AllowHosts, AllowLoopback: o.AllowLoopback})
	}
}

// proxied returns the error of GuardedProxy for a request, if it refuses the request.
func (o *Options) proxied(req *http.Request) error {
	if o.Proxy == nil {
		return nil
	}
	_, err := GuardedProxy(AddressPolicy{AllowHosts: o.AllowHosts, AllowLoopback: o.AllowLoopback}, o.Proxy)(req)
	return err
}

// Kept is a reference that was resolved in advance with the install's credentials. Resolve uses it
// for a request that may use the install's credential for the host, and for every request if it was
// resolved without a credential. This needs no call to the registry.
type Kept struct {
	Digest    string
	SizeBytes int64
	// Anonymous reports that it was resolved without a credential.
	Anonymous bool
	// Age is the time since it was resolved.
	Age time.Duration
}
