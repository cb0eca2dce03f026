package proxy

import (
	"crypto/rand"
	"net/url"
	"sync"
)

// maxUploads limits the number of open uploads.
const maxUploads = 4096

// uploads keeps the registry's location of each open upload. Clients receive an id of this proxy
// instead: the registry's location may contain secrets and would bypass the proxy.
type uploads struct {
	mu   sync.Mutex
	open map[string]upload
}

type upload struct {
	repo     repository
	use      string
	location *url.URL
}

// begin records an upload and returns its id, or "" if there are too many.
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

// find returns the upload with the id in g, if it has the same repository and purpose.
func (u *uploads) find(g grant) (upload, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	up, ok := u.open[g.name]
	return up, ok && up.repo == g.repo && up.use == g.use
}

// move records the new location of an upload.
func (u *uploads) move(id string, location *url.URL) {
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
