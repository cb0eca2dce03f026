package proxy

import (
	"crypto/rand"
	"net/url"
	"sync"
)

// maxUploads bounds the uploads that are open at a time.
const maxUploads = 4096

// uploads remembers where the registry wants the rest of each upload. Clients
// see an id of this proxy: what the registry says may hold its own secrets and
// leads past the proxy.
type uploads struct {
	mu   sync.Mutex
	open map[string]upload
}

type upload struct {
	repo     repository
	use      string
	location *url.URL
}

// begin notes an upload and answers its id, "" if there are too many.
func (u *uploads) begin(up upload) string {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.open) >= maxUploads {
		return ""
	}
	if u.open == nil {
		u.open = map[string]upload{}
	}
	id := rand.Text()
	u.open[id] = up
	return id
}

// find answers an upload of the same repository and use.
func (u *uploads) find(g grant) (upload, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	up, ok := u.open[g.name]
	return up, ok && up.repo == g.repo && up.use == g.use
}

// moved notes that an upload goes on elsewhere.
func (u *uploads) moved(id string, location *url.URL) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if up, ok := u.open[id]; ok {
		up.location = location
		u.open[id] = up
	}
}

func (u *uploads) end(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.open, id)
}
