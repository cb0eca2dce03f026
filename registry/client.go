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

// Options configure a Client. The zero Options are usable: no credentials,
// TLS everywhere but on loopback names, and no loopback address allowed.
type Options struct {
	// DockerConfigFile is a docker config.json with the credentials of the
	// install; "" is none. It is read again whenever it changes.
	DockerConfigFile string
	// Providers make credentials from an identity of this process, for hosts
	// that the docker config has none for. The first that matches is asked.
	Providers []Provider
	// AllowedByDefault tells of hosts whose credential of the install every
	// request may use, whatever its Rights: Gitpod allows Amazon's private
	// registries so, where the identity's own policy says who may read what. It
	// compares whole canonical names. nil for none.
	AllowedByDefault func(host string) bool
	// WorkspaceHost is the registry host of the workspace images:
	// Rights.Additional is never used for it.
	WorkspaceHost string
	// Insecure are hosts (name, or name:port) that are spoken to by plain HTTP.
	// localhost, 127.0.0.1 and ::1 always are; no other host ever is.
	Insecure []string
	// CAFile has certificates in PEM that are trusted beside the system's.
	CAFile string
	// Hosts are options of single registry hosts, by name.
	Hosts map[string]HostOptions
	// Proxy answers the proxy for a request, as http.ProxyFromEnvironment does;
	// nil for none. A proxy resolves names by itself: behind one the
	// AddressPolicy sees the proxy's address, and only the addresses that stand
	// in references and redirects themselves.
	Proxy func(*http.Request) (*url.URL, error)
	// Concurrency bounds how many requests of this process to one host wait for
	// an answer at a time. Default 64.
	Concurrency int
	// Sharers answers among how many processes the limits of Hosts are shared,
	// this one included. It is asked often and must not block; nil and less
	// than 1 are this one alone.
	Sharers func() int
	// Bandwidth bounds the bytes of blobs that all copies of this process
	// together transfer in a second, 0 for no bound.
	Bandwidth int64
	// CacheFor is how long a digest that a tag had, and that an image exists,
	// is taken for true without asking; 0 for not at all. What this client
	// pushes or tags is asked for anew at once; what others push is seen after
	// that time. That an image does not exist is never remembered.
	CacheFor time.Duration
	// Kept answers what a reference (normalised, with its tag) is known to
	// resolve to for linux/amd64, without asking anybody and without blocking;
	// nil for nothing. Resolve answers with it by the rule of Kept.
	Kept func(ref string) (Kept, bool)
	// Registerer gets the metrics of docs/metrics.md; nil for none.
	Registerer prometheus.Registerer
	// AllowHosts and AllowLoopback are the AddressPolicy of all connections.
	AllowHosts    []string
	AllowLoopback bool
	// Dial connects, nil for GuardedDial by the policy above. A Dial of one's
	// own is not guarded: it is for tests that answer for foreign names.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Timeout bounds one look-up with its retries, each request of a copy, and
	// the time that a blob's transfer may stand still. Default 30 seconds.
	Timeout time.Duration
	// Retries is how often a failed request is asked again where that may
	// help. Default 4, negative for never.
	Retries int
	// RetryBase is the pause before the first retry; it doubles each time, up
	// to 5 seconds, and the half of it is random. Default 200 ms.
	RetryBase time.Duration
	// Parallel is how many blobs one copy transfers at a time. Default 4.
	Parallel int
	// Logger is told what operators act on; nil for slog.Default.
	Logger *slog.Logger
}

const (
	defaultTimeout   = 30 * time.Second
	defaultRetries   = 4
	defaultRetryBase = 200 * time.Millisecond
	defaultParallel  = 4
	defaultPerHost   = 64
	// maxSessions bounds what requests with ever other repositories and
	// credentials make us remember.
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
	salt          []byte // of credential identities
	wire          *wire
	hosts         hostTable
	sessions      *lru.Cache[string, *session]
	flights       *flights
	logins        *logins
	answers       *answers
	copies        *joints[string] // by what is copied where; answers how
	paced         func(context.Context, []byte) []byte
}

// New answers a client. It reads the credentials and the CA file, and connects
// to nothing. The caller closes the client.
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
		flights:  newFlights(),
	}
	_, _ = rand.Read(c.salt) // never fails, by its documentation
	if c.logins, err = newLogins(c.flights); err != nil {
		return nil, err
	}
	if c.answers, err = newAnswers(o.CacheFor); err != nil {
		return nil, err
	}
	c.copies = newJoints[string](c.flights)
	c.paced = pace(o.Bandwidth)
	c.workspaceHost = c.canonical(o.WorkspaceHost)
	if c.hosts, err = newHostTable(o.Hosts, c.canonical); err != nil {
		return nil, err
	}
	if c.wire, err = newWire(&c.opts, c.plain, c.hosts); err != nil {
		return nil, err
	}
	return c, nil
}

// Close ends the look-ups and the transfers of blobs that are under way, waits
// for them, and closes idle connections.
func (c *Client) Close() error {
	c.flights.close()
	c.wire.closeIdle()
	return nil
}
