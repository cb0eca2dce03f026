package web

import (
	"net/http"
	"slices"
	"strings"
)

// policy returns the Content-Security-Policy. It allows the page to load its own files and to call
// the nodes, and nothing else.
func policy(nodes []string) string {
	return "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src " +
		strings.Join(append([]string{"'self'"}, nodes...), " ") +
		"; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
}

// guard sets the security headers of every response and refuses requests of other sites' scripts.
func (s *server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", s.policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Add("Vary", "Origin")
		if !s.sameSite(r) {
			http.Error(w, "requests from pages of other sites are not allowed; http.nodes lists the allowed origins", http.StatusForbidden)
			return
		}
		if origin := r.Header.Get("Origin"); slices.Contains(s.Nodes, origin) {
			h.Set("Access-Control-Allow-Origin", origin)
		}
		next.ServeHTTP(w, r)
	})
}

// sameSite reports whether a request comes from this page, from the page of another node, from a
// navigation of the user, or from a client that is not a browser.
func (s *server) sameSite(r *http.Request) bool {
	if origin := r.Header.Get("Origin"); origin != "" {
		_, host, _ := strings.Cut(origin, "://")
		return host == r.Host || slices.Contains(s.Nodes, origin)
	}
	return r.Header.Get("Sec-Fetch-Site") != "cross-site" || r.Header.Get("Sec-Fetch-Mode") == "navigate"
}
