package registry

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Explanation describes for people how a reference is resolved. It contains no secrets.
type Explanation struct {
	// Ref is the parsed reference; Host and Repository are its parts.
	Ref, Host, Repository string
	// Image is the result. Err is set if there is none.
	Image Image
	Err   error
	// Endpoints are the repositories in which the image is looked up, mirrors first.
	Endpoints []Endpoint
	// Requests are the requests sent, in order.
	Requests []RequestTrace
	// Platform is the requested platform. Chosen explains which image of an index was chosen, and
	// Platforms lists the platforms of the index.
	Platform  string
	Chosen    string
	Platforms []string
	// Cache explains how the caches affect a plain Resolve of the reference.
	Cache string
	// Took is the total time.
	Took time.Duration
}

// Endpoint is a repository in which an image is looked up.
type Endpoint struct {
	Host, Repository string
	Mirror           bool
	// Credential names the source of the credential, as in "docker config, entry
	// registry.example.com". "none" means anonymous.
	Credential string
	// BreakerOpen is how long the circuit breaker of the host stays open, because the host did not
	// respond; 0 if it is not open.
	BreakerOpen time.Duration
	// Err is the error of the endpoint; nil if it returned the image or got no request.
	Err error
}

// RequestTrace is one upstream request.
type RequestTrace struct {
	// Path is the path of a request to the API, without the query. It is empty for token servers
	// and for targets of redirects, because their paths may be signed.
	Method, Host, Path string
	Status             int    // 0 for no response
	Err                string // the error if there is no response
	Took               time.Duration
}

// trace records the steps of one Explain. The context carries it.
type trace struct {
	repositories []string // at any host

	mu        sync.Mutex
	requests  []RequestTrace
	chosen    string
	platforms []string
	errs      map[string]error // by host/repository
}

type traceKey struct{}

// traceOf returns the trace of the context, or nil. A nil trace records nothing.
func traceOf(ctx context.Context) *trace {
	t, _ := ctx.Value(traceKey{}).(*trace)
	return t
}

func (t *trace) recordRequest(req *http.Request, resp *http.Response, err error, took time.Duration) {
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

// known reports whether this client chose the path of a request, and not a server.
func (t *trace) known(req *http.Request) bool {
	if req.Response != nil { // the request follows a redirect
		return false
	}
	if req.URL.Path == "/v2/" {
		return true
	}
	return slices.ContainsFunc(t.repositories, func(r string) bool {
		return strings.HasPrefix(req.URL.Path, "/v2/"+r+"/manifests/")
	})
}

func (t *trace) recordChoice(why string, platforms []string) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.chosen, t.platforms = why, platforms
}

func (t *trace) recordError(at target, err error) {
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

func (t *trace) errorOf(at target, secrets []string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.errs[at.host+"/"+at.path]; err != nil {
		return examine(err, secrets...).err
	}
	return nil
}

func (t *trace) copyTo(e *Explanation) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e.Requests, e.Chosen, e.Platforms = t.requests, t.chosen, t.platforms
}
