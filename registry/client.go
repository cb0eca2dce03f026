package registry

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
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

// Client talks to registries. It is safe for concurrent use.
type Client struct {
	opts          Options
	plain         hostSet
	workspaceHost string
	config        *dockerConfig
	salt          []byte // of credential identities, random for each client
	wire          *wire
	hosts         hostTable
	sessions      *lru.Cache[string, *session]
	calls         *callGroup
	logins        *loginCache
	cache         *lookUpCache
	copies        *sharedCalls[string] // transfers of blobs, by blob and endpoints; each returns how the blob came
	throttle      func(context.Context, []byte) []byte
}

// New returns a client. It reads the credentials and the CA files, and opens no connection. The
// caller closes the client.
func New(o Options) (*Client, error) {
	o.setDefaults()
	config, err := openDockerConfig(o.DockerConfigFile, o.Logger)
	if err != nil {
		return nil, err
	}
	sessions, err := lru.New[string, *session](maxSessions)
	if err != nil {
		return nil, fmt.Errorf("make the session cache: %w", err)
	}
	c := &Client{
		opts:     o,
		plain:    newHostSet(append([]string{"localhost", "127.0.0.1", "::1"}, o.Insecure...)...),
		config:   config,
		salt:     make([]byte, 32),
		sessions: sessions,
		calls:    newCallGroup(),
	}
	_, _ = rand.Read(c.salt) // never fails, by its documentation
	if c.logins, err = newLoginCache(c.calls); err != nil {
		return nil, err
	}
	if c.cache, err = newLookUpCache(o.CacheFor); err != nil {
		return nil, err
	}
	c.copies = newSharedCalls[string](c.calls)
	c.throttle = newThrottle(o.Bandwidth)
	c.workspaceHost = c.canonical(o.WorkspaceHost)
	if c.hosts, err = newHostTable(o.Hosts, c.canonical); err != nil {
		return nil, err
	}
	if c.wire, err = newWire(&c.opts, c.plain, c.hosts); err != nil {
		return nil, err
	}
	return c, nil
}

// Close cancels running look-ups and transfers of blobs, waits for them, and closes idle
// connections.
func (c *Client) Close() error {
	c.calls.close()
	c.wire.closeIdle()
	return nil
}
