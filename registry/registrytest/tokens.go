package registrytest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// tokens makes a proxy require bearer tokens, as Docker Hub and most others do, and checks their
// scopes.
type tokens struct {
	users map[string]string
	// allow reports whether a user ("" for anonymous) gets an action on a repository.
	allow func(user, repository, action string) bool

	mu        sync.Mutex
	issued    int
	granted   map[string][]string // repository:action by token
	requested []string            // scopes, in order
}

func (t *tokens) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	if r.URL.Path == "/token" {
		t.issue(w, r)
		return
	}
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	t.mu.Lock()
	granted, known := t.granted[token]
	t.mu.Unlock()
	repository, action := required(r)
	if !known || repository != "" && !slices.Contains(granted, repository+":"+action) {
		scheme := "http"
		if r.TLS != nil {
			scheme = "https"
		}
		challenge := fmt.Sprintf(`Bearer realm="%s://%s/token",service="test"`, scheme, r.Host)
		if repository != "" {
			challenge += fmt.Sprintf(`,scope="repository:%s:%s"`, repository, action)
		}
		w.Header().Set("WWW-Authenticate", challenge)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if q := r.URL.Query(); q.Get("from") != "" && !slices.Contains(granted, q.Get("from")+":pull") {
		q.Del("from")
		q.Del("mount")
		r.URL.RawQuery = q.Encode()
	}
	r.Header.Del("Authorization")
	next.ServeHTTP(w, r)
}

// required returns the repository and action that a request needs.
func required(r *http.Request) (repository, action string) {
	path := strings.TrimPrefix(r.URL.Path, "/v2/")
	for _, part := range []string{"/manifests/", "/blobs/"} {
		if name, _, ok := strings.Cut(path, part); ok {
			repository = name
		}
	}
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return repository, "pull"
	}
	return repository, "push"
}

// issue issues a token for the requested scopes that are allowed.
func (t *tokens) issue(w http.ResponseWriter, r *http.Request) {
	user, password, ok := r.BasicAuth()
	if ok && t.users[user] != password {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.issued++
	token := fmt.Sprintf("token-%d", t.issued)
	t.granted[token] = []string{}
	for _, scope := range r.URL.Query()["scope"] {
		t.requested = append(t.requested, scope)
		_, rest, _ := strings.Cut(scope, ":")
		repository, actions, _ := strings.Cut(rest, ":")
		for action := range strings.SplitSeq(actions, ",") {
			if t.allow == nil || t.allow(user, repository, action) {
				t.granted[token] = append(t.granted[token], repository+":"+action)
			}
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "expires_in": 300}) // the client may be gone
}
