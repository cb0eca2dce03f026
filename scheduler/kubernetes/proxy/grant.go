package proxy

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
)

// request is a parsed request to the registry API.
type request struct {
	method string
	use    string
	repo   repository
	// kind is manifests, blobs or uploads.
	kind string
	// name is a tag, a digest, or the id of an upload ("" for a new one).
	name string
}

// grant is a request that is allowed, and how the proxy forwards it.
type grant struct {
	request
	// own means: use the credential of the install instead of those of the request.
	own bool
	// write means: the session needs the right to push.
	write bool
}

var (
	digestPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	tagPattern    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
	pathPattern   = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	uploadPattern = regexp.MustCompile(`^[A-Z2-7]{0,64}$`)
)

// refusal is the reason why a request is refused.
type refusal struct{ reason string }

func (r *refusal) Error() string { return r.reason }

func refuse(format string, args ...any) error { return &refusal{fmt.Sprintf(format, args...)} }

// parse parses a request. path is the decoded path.
func parse(method, path string) (request, error) {
	rest, ok := strings.CutPrefix(path, "/v2/")
	if !ok {
		return request{}, refuse("%s is not a path of the registry API", path)
	}
	use, rest, _ := strings.Cut(rest, "/")
	enc, rest, _ := strings.Cut(rest, "/")
	host, ok := decodeHost(enc)
	if !ok {
		return request{}, refuse("%s names no registry of this build", path)
	}
	r := request{method: method, use: use, repo: repository{host: host}}
	switch {
	case cutLast(rest, "/blobs/uploads/", &r.repo.path, &r.name):
		r.kind = "uploads"
		ok = uploadPattern.MatchString(r.name)
	case cutLast(rest, "/manifests/", &r.repo.path, &r.name):
		r.kind = "manifests"
		ok = digestPattern.MatchString(r.name) || tagPattern.MatchString(r.name)
	case cutLast(rest, "/blobs/", &r.repo.path, &r.name):
		r.kind = "blobs"
		ok = digestPattern.MatchString(r.name)
	default:
		return request{}, refuse("%s: lists of tags, of repositories and of referrers are not served here", path)
	}
	if !ok || !pathPattern.MatchString(r.repo.path) {
		return request{}, refuse("%s is not a well-formed path", path)
	}
	return r, nil
}

func cutLast(s, sep string, before, after *string) bool {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return false
	}
	*before, *after = s[:i], s[i+len(sep):]
	return true
}

func (r request) digest() bool { return digestPattern.MatchString(r.name) }

func (r request) reads() bool {
	return (r.method == http.MethodGet || r.method == http.MethodHead) && r.kind != "uploads"
}

// uploads reports whether the request uploads a blob.
func (r request) uploads() bool {
	if r.kind != "uploads" {
		return false
	}
	switch r.method {
	case http.MethodPost:
		return r.name == ""
	case http.MethodPatch, http.MethodPut, http.MethodGet, http.MethodDelete:
		return r.name != "" // an upload of this proxy; DELETE cancels it
	}
	return false
}

// decide returns the grant of a request, or a *refusal. It is pure.
func (c *Config) decide(r request) (grant, error) {
	switch r.use {
	case usePull:
		return c.decidePull(r)
	case usePush:
		return c.decidePush(r)
	case useCache:
		return c.decideCache(r)
	case useContext:
		return c.decideContext(r)
	}
	return grant{}, refuse("%q is not a known first part of a name", r.use)
}

func (c *Config) decidePull(r request) (grant, error) {
	if !r.reads() {
		return grant{}, refuse("base images are only read: %s of %s is refused", r.method, r.repo)
	}
	if c.Pull.Any {
		return grant{request: r}, nil
	}
	repo, _ := cutDigest(c.Pull.Image)
	only, err := parseRepository(repo)
	switch {
	case err != nil || r.repo != only:
		return grant{}, refuse("this build reads %s, and not %s", orNothing(repo), r.repo)
	case r.kind == "manifests" && !r.digest():
		return grant{}, refuse("this build reads %s by digest, and not the tag %s", r.repo, r.name)
	}
	return grant{request: r}, nil
}

func (c *Config) decidePush(r request) (grant, error) {
	if c.Push == nil || !same(c.Push.Repository, r.repo) {
		return grant{}, refuse("this build does not push to %s", r.repo)
	}
	g := grant{request: r, own: true, write: true}
	switch {
	case r.uploads():
		return g, nil
	case r.kind == "blobs" && r.method == http.MethodHead:
		return g, nil // only checks existence; the content may belong to others
	case r.kind == "manifests" && r.digest() && (r.reads() || r.method == http.MethodPut):
		return g, nil
	case r.kind == "manifests" && !r.digest() && r.method == http.MethodPut && c.Push.Tag != "":
		g.name = c.Push.Tag
		return g, nil
	case r.kind == "manifests" && !r.digest() && r.reads() && c.Push.Tag != "" && r.name == c.Push.Tag:
		return g, nil
	}
	return grant{}, refuse("this build pushes to %s by digest: %s of the %s %q is refused", r.repo, r.method, r.kind, r.name)
}

func (c *Config) decideCache(r request) (grant, error) {
	if c.Cache == nil || !same(c.Cache.Repository, r.repo) {
		return grant{}, refuse("%s is not the build cache", r.repo)
	}
	if r.kind == "manifests" && !r.digest() && !strings.HasPrefix(r.name, c.Cache.TagPrefix) {
		return grant{}, refuse("the tag %s of the build cache is not this build's: tags begin with %s", r.name, c.Cache.TagPrefix)
	}
	g := grant{request: r, own: true, write: c.Cache.Write}
	switch {
	case r.reads():
		return g, nil
	case !c.Cache.Write:
		return grant{}, refuse("this build may read its cache in %s and not write it", r.repo)
	case r.uploads(), r.kind == "manifests" && r.method == http.MethodPut:
		return g, nil
	}
	return grant{}, refuse("%s of the %s of the build cache is refused", r.method, r.kind)
}

func (c *Config) decideContext(r request) (grant, error) {
	if c.Context == nil || !same(c.Context.Repository, r.repo) || !r.reads() {
		return grant{}, refuse("%s holds no context of this build", r.repo)
	}
	if r.kind == "manifests" && r.name == c.Context.Tag || r.kind == "blobs" && r.name == c.Context.Digest {
		return grant{request: r, own: true}, nil
	}
	return grant{}, refuse("%s of %s is not the context of this build", r.name, r.repo)
}

func same(granted string, requested repository) bool {
	repo, err := parseRepository(granted)
	return err == nil && repo == requested
}

func orNothing(s string) string {
	if s == "" {
		return "no base image"
	}
	return s
}
