package registry

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Explanation tells how an answer came about, for people. It holds no secrets.
type Explanation struct {
	// Ref is the reference as it is understood, Host and Repository its parts.
	Ref, Host, Repository string
	// Image is the answer, and Err why there is none.
	Image Image
	Err   error
	// Endpoints are where the image was looked for, mirrors first.
	Endpoints []Endpoint
	// Requests are those sent, in order.
	Requests []RequestTrace
	// Platform is the one asked for; Chosen tells why an index's image was
	// taken, and Platforms which ones the index has.
	Platform  string
	Chosen    string
	Platforms []string
	// Cache is the rule by which a plain Resolve would have answered.
	Cache string
	// Took is the time of all of it.
	Took time.Duration
}

// Endpoint is a repository that is asked.
type Endpoint struct {
	Host, Repository string
	Mirror           bool
	// Credential names where the credential is from, as in "docker config,
	// entry registry.example.com"; "none" for anonymous.
	Credential string
	// Resting is how long the host is not asked because it did not answer.
	Resting time.Duration
	// Err is why it has no answer, nil if it has or was not asked.
	Err error
}

// RequestTrace is one request upstream.
type RequestTrace struct {
	// Path is that of a request for the API, without the query. It is empty
	// for token servers and where redirects lead: such paths may be signed.
	Method, Host, Path string
	Status             int    // 0 for no answer
	Err                string // why there is none
	Took               time.Duration
}

// Explain resolves as Resolve does, but asks the registry whatever is cached,
// with a session of its own, and tells what it did. It blocks for at most the
// client's Timeout.
func (c *Client) Explain(ctx context.Context, ref, platform string, r Rights) Explanation {
	const op = "explain image"
	start := time.Now()
	var e Explanation
	named, err := ParseRef(ref)
	if err != nil {
		e.Err = err
		return e
	}
	e.Ref = named.String()
	want, err := parsePlatform(platform)
	if err != nil {
		e.Err = wrap(op, e.Ref, err, credential{})
		return e
	}
	e.Platform = platformName(want)
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	t, err := c.targetOf(ctx, named, pull, r)
	e.Host, e.Repository = t.host, t.path
	if err != nil {
		e.Err = wrapFor(op, e.Ref, err, t)
		return e
	}
	if _, why, ok := c.kept(named, want, r); ok {
		e.Cache = why
	} else if e.Cache = c.cacheRule(c.lookUpKey(e.Platform, named, t)); why != "" {
		e.Cache = why + "; " + e.Cache
	}
	tr := &trace{repositories: []string{t.path}}
	for _, m := range t.mirrors {
		tr.repositories = append(tr.repositories, m.path)
	}
	img, err := c.resolve(context.WithValue(ctx, traceKey{}, tr), t, named, want)
	if err != nil {
		e.Err = wrapFor(op, e.Ref, err, t)
	} else {
		img.Anonymous = t.anonymous()
		e.Image = img
	}
	tr.into(&e)
	for i, p := range append(append([]target{}, t.mirrors...), t) {
		e.Endpoints = append(e.Endpoints, Endpoint{
			Host: p.host, Repository: p.path, Mirror: i < len(t.mirrors), Credential: p.cred.name(),
			Resting: c.wire.gates.of(c.canonical(p.host)).resting(), Err: tr.failed(p, t.secrets()),
		})
	}
	e.Took = time.Since(start)
	return e
}

// name tells people where a credential is from.
func (c credential) name() string {
	switch {
	case c.anonymous():
		return "none"
	case c.source == "":
		return "unknown"
	}
	return c.source
}

func (c *Client) cacheRule(key string) string {
	if c.opts.CacheFor <= 0 {
		return "nothing is cached"
	}
	if _, left, ok := c.answers.get(key); ok {
		return "answered from the cache for " + left.Round(time.Millisecond).String() + " yet"
	}
	return "asked, and then cached for " + c.opts.CacheFor.String() + " or until this node pushes to the repository"
}

// trace collects what one call does. It travels in the context.
type trace struct {
	repositories []string // at any host

	mu        sync.Mutex
	requests  []RequestTrace
	chosen    string
	platforms []string
	errs      map[string]error // by endpoint
}

type traceKey struct{}

// traceOf answers the context's trace or nil. A nil trace records nothing.
func traceOf(ctx context.Context) *trace {
	t, _ := ctx.Value(traceKey{}).(*trace)
	return t
}

func (t *trace) request(req *http.Request, resp *http.Response, err error, took time.Duration) {
	if t == nil {
		return
	}
	r := RequestTrace{Method: req.Method, Took: took}
	if hostName.MatchString(req.URL.Host) {
		r.Host = req.URL.Host
	}
	if t.known(req) {
		r.Path = req.URL.Path
	}
	if err != nil {
		r.Err = examine(err).err.Error()
	} else {
		r.Status = resp.StatusCode
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.requests = append(t.requests, r)
}

// known tells whether a request is one that we made, and not a server.
func (t *trace) known(req *http.Request) bool {
	if req.Response != nil { // it follows a redirect
		return false
	}
	if req.URL.Path == "/v2/" {
		return true
	}
	return slices.ContainsFunc(t.repositories, func(r string) bool {
		return strings.HasPrefix(req.URL.Path, "/v2/"+r+"/manifests/")
	})
}

func (t *trace) choice(why string, platforms []string) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.chosen, t.platforms = why, platforms
}

func (t *trace) fail(at target, err error) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.errs == nil {
		t.errs = map[string]error{}
	}
	t.errs[at.host+"/"+at.path] = err
}

func (t *trace) failed(at target, secrets []string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.errs[at.host+"/"+at.path]; err != nil {
		return examine(err, secrets...).err
	}
	return nil
}

func (t *trace) into(e *Explanation) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e.Requests, e.Chosen, e.Platforms = t.requests, t.chosen, t.platforms
}
