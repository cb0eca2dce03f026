package proxy

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/image-builder-ha/image-builder/registry"
)

// Server is the proxy of one pod. It implements http.Handler.
type Server struct {
	config   *Config
	upstream *upstream
	uploads  uploads
	log      *slog.Logger
}

// New returns a proxy. It does not connect yet.
func New(c *Config, log *slog.Logger) (*Server, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	u, err := newUpstream(c)
	if err != nil {
		return nil, err
	}
	return &Server{config: c, upstream: u, log: log}, nil
}

// RunFile runs a proxy with the configuration file at path until ctx ends. The credentials in the
// file may change during that time, because some expire before the build ends.
func RunFile(ctx context.Context, path string, log *slog.Logger) error {
	c, err := ReadConfig(path)
	if err != nil {
		return err
	}
	s, err := New(c, log)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.follow(ctx, path, c)
	}()
	err = s.Run(ctx)
	cancel()
	<-done
	return err
}

// reloadInterval is the time between two checks for changed credentials. The kubelet takes about a
// minute to update a mounted Secret.
const reloadInterval = 5 * time.Second

// follow reloads the credentials when the file changes. It ignores all other changes: the rights of
// a build stay the same.
func (s *Server) follow(ctx context.Context, path string, c *Config) {
	tick := time.NewTicker(reloadInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, err := ReadConfig(path)
		if err != nil {
			s.log.Warn("cannot read renewed credentials, will try again", "err", err)
			continue
		}
		if !maps.Equal(now.Read, c.Read) || !maps.Equal(now.Own, c.Own) {
			s.upstream.setCredentials(now.Read, now.Own)
			s.log.Info("took over renewed registry credentials")
			c = now
		}
	}
}

// Run serves at the configured address until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	l, err := net.Listen("tcp", s.config.Listen)
	if err != nil {
		return fmt.Errorf("listen for the build at %s: %w", s.config.Listen, err)
	}
	return s.Serve(ctx, l)
}

// Serve serves on a listener, which it closes, until ctx ends.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	defer s.upstream.close()
	server := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve the build: %w", err)
	case <-ctx.Done():
	}
	err := server.Close()
	<-done
	return err
}

// ServeHTTP serves one request of the build.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.authorized(r) {
		w.Header().Set("WWW-Authenticate", `Basic realm="build"`)
		s.fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "this proxy serves one build: present the token of that build")
		return
	}
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if r.URL.Path == "/v2/" && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		return
	}
	req, err := parse(r.Method, r.URL.Path)
	var g grant
	if err == nil {
		g, err = s.config.decide(req)
	}
	if err != nil {
		s.log.Info("refused a request of the build", "method", r.Method, "path", r.URL.Path, "reason", err)
		s.fail(w, http.StatusForbidden, "DENIED", err.Error())
		return
	}
	if err := s.forward(w, r, g); err != nil {
		s.failRequest(w, r, g, err)
	}
}

func (s *Server) authorized(r *http.Request) bool {
	_, password, ok := r.BasicAuth()
	return ok && subtle.ConstantTimeCompare([]byte(password), []byte(s.config.Token)) == 1
}

// forward sends the request to the registry, mirrors first, and passes the response on. If it
// returns an error, nothing has been written to w.
func (s *Server) forward(w http.ResponseWriter, r *http.Request, g grant) error {
	for _, m := range s.upstream.mirrors(g) {
		out, resp, err := s.send(r, m)
		if err == nil && resp.StatusCode < 300 {
			defer func() { _ = resp.Body.Close() }() // read to its end, or the client is gone
			return s.respond(w, r, g, out.URL, resp)
		}
		if err == nil {
			_ = resp.Body.Close()
			err = fmt.Errorf("it returned status %d", resp.StatusCode)
		}
		if r.Context().Err() != nil {
			return r.Context().Err()
		}
		s.log.Info("a mirror does not have the image", "mirror", m.repo.host, "repository", g.repo.String(), "name", g.name, "reason", withoutURL(err))
	}
	out, resp, err := s.send(r, g)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end, or the client is gone
	if resp.StatusCode == http.StatusUnauthorized {
		s.upstream.dropSession(g)
		return &transport.Error{StatusCode: http.StatusUnauthorized}
	}
	return s.respond(w, r, g, out.URL, resp)
}

// send sends a granted request to its registry. It returns the sent request and the response, whose
// body the caller closes.
func (s *Server) send(r *http.Request, g grant) (*http.Request, *http.Response, error) {
	sess, err := s.upstream.session(r.Context(), g)
	if err != nil {
		return nil, nil, err
	}
	target, err := s.target(r, g, sess)
	if err != nil {
		return nil, nil, err
	}
	out, err := http.NewRequestWithContext(r.Context(), r.Method, target.String(), nil)
	if err != nil {
		return nil, nil, refuse("the request makes no valid URL")
	}
	if r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodPatch {
		if out.ContentLength = r.ContentLength; r.ContentLength != 0 {
			out.Body = r.Body
		}
	}
	for _, h := range []string{"Accept", "Content-Type", "Content-Range", "Range"} {
		if v := r.Header.Values(h); len(v) > 0 {
			out.Header[h] = v
		}
	}
	resp, err := sess.client.Do(out)
	if err != nil {
		return nil, nil, fmt.Errorf("send a request to %s: %w", g.repo.host, withoutURL(err))
	}
	return out, resp, nil
}

// target returns the registry's URL for a granted request. It passes on only the query parameters
// that uploads need: a mount would read another repository with the credential of the install.
func (s *Server) target(r *http.Request, g grant, sess *session) (*url.URL, error) {
	query := url.Values{}
	if d := r.URL.Query().Get("digest"); d != "" {
		if !digestPattern.MatchString(d) {
			return nil, refuse("the digest %q is malformed", d)
		}
		query.Set("digest", d)
	}
	if g.kind == "uploads" && g.name != "" {
		up, ok := s.uploads.find(g)
		if !ok {
			return nil, &transport.Error{StatusCode: http.StatusNotFound}
		}
		u := *up.location
		q := u.Query()
		for k, v := range query {
			q[k] = v
		}
		u.RawQuery = q.Encode()
		return &u, nil
	}
	u := sess.base
	switch g.kind {
	case "uploads":
		u.Path += "blobs/uploads/"
		u.RawQuery = query.Encode()
	default:
		u.Path += g.kind + "/" + g.name
	}
	return &u, nil
}

// respond passes the response of the registry on.
func (s *Server) respond(w http.ResponseWriter, r *http.Request, g grant, requested *url.URL, resp *http.Response) error {
	h := w.Header()
	for _, k := range []string{"Content-Type", "Content-Length", "Content-Range", "Docker-Content-Digest", "Docker-Upload-UUID", "Range", "Retry-After", "ETag"} {
		if v := resp.Header.Values(k); len(v) > 0 {
			h[k] = v
		}
	}
	if g.kind == "uploads" {
		if err := s.location(h, g, requested, resp); err != nil {
			return err
		}
	} else if resp.StatusCode == http.StatusCreated {
		h.Set("Location", prefix(g)+g.kind+"/"+g.name)
	}
	w.WriteHeader(resp.StatusCode)
	if r.Method != http.MethodHead {
		_, _ = io.Copy(w, resp.Body) // a client detects a short body by the length
	}
	return nil
}

// location replaces the location of an upload by one of this proxy.
func (s *Server) location(h http.Header, g grant, requested *url.URL, resp *http.Response) error {
	id := g.name
	if resp.StatusCode == http.StatusCreated || g.method == http.MethodDelete || resp.StatusCode == http.StatusNotFound {
		s.uploads.end(id)
		if d := resp.Header.Get("Docker-Content-Digest"); digestPattern.MatchString(d) {
			h.Set("Location", prefix(g)+"blobs/"+d)
		}
		return nil
	}
	raw := resp.Header.Get("Location")
	if raw == "" {
		return nil
	}
	next, err := requested.Parse(raw)
	if err != nil {
		return fmt.Errorf("%s returned an upload location that is not a URL", g.repo.host)
	}
	if id == "" {
		if id = s.uploads.begin(upload{repo: g.repo, use: g.use, location: next}); id == "" {
			return errors.New("the build has too many uploads open")
		}
	} else {
		s.uploads.move(id, next)
	}
	h.Set("Location", prefix(g)+"blobs/uploads/"+id)
	return nil
}

func prefix(g grant) string {
	return "/v2/" + g.use + "/" + encodeHost(g.repo.host) + "/" + g.repo.path + "/"
}

// failRequest writes the response for a request that could not be forwarded.
func (s *Server) failRequest(w http.ResponseWriter, r *http.Request, g grant, err error) {
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // the client is gone
	}
	var refused *refusal
	var known *transport.Error
	switch {
	case errors.As(err, &refused):
		s.fail(w, http.StatusForbidden, "DENIED", refused.Error())
	case errors.As(err, &known) && (known.StatusCode == http.StatusUnauthorized || known.StatusCode == http.StatusForbidden):
		// Not 401: the client would then request another token from this proxy.
		s.fail(w, http.StatusForbidden, "DENIED", fmt.Sprintf("the registry %s gives no access to %s with the credential of this build", g.repo.host, g.repo.path))
	case errors.As(err, &known) && known.StatusCode == http.StatusNotFound:
		s.fail(w, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "there is no such upload")
	case errors.As(err, &known) && known.StatusCode == http.StatusTooManyRequests:
		s.fail(w, http.StatusTooManyRequests, "TOOMANYREQUESTS", fmt.Sprintf("the registry %s limits the rate of requests", g.repo.host))
	case errors.As(err, new(*registry.AddressError)), registry.KindOf(err) == registry.Refused:
		s.fail(w, http.StatusForbidden, "DENIED", fmt.Sprintf("cannot use the registry %s: %v", g.repo.host, withoutURL(err)))
	case !registry.NotReady(err) && !(errors.As(err, &known) && known.StatusCode > http.StatusInternalServerError):
		// A wrong certificate or name does not change by waiting: status 500 makes the client give
		// up at once.
		s.log.Warn("a request to a registry failed", "host", g.repo.host, "repository", g.repo.path, "err", err)
		s.fail(w, http.StatusInternalServerError, "UNKNOWN", fmt.Sprintf("cannot use the registry %s: %v", g.repo.host, withoutURL(err)))
	default:
		s.log.Warn("a request to a registry failed", "host", g.repo.host, "repository", g.repo.path, "err", err)
		s.fail(w, http.StatusBadGateway, "UNAVAILABLE", fmt.Sprintf("cannot use the registry %s: %v", g.repo.host, withoutURL(err)))
	}
}

// fail writes an error in the format of the OCI distribution specification.
func (s *Server) fail(w http.ResponseWriter, status int, code, message string) {
	type entry struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string][]entry{"errors": {{code, message}}}) // the client may be gone
}

// withoutURL removes the URL from an error of an HTTP client, because it may carry a signature.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
