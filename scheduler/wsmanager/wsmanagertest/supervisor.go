package wsmanagertest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// Supervisors is a fake of the supervisors of all workspaces. It is one HTTP server, on which each
// workspace has its own path.
type Supervisors struct {
	t      testing.TB
	server *httptest.Server

	mu         sync.Mutex
	workspaces map[string]*Workspace
	// changed is closed and replaced at each request and each end of one.
	changed chan struct{}
}

// Workspace is the supervisor of one workspace, with one task.
type Workspace struct {
	s  *Supervisors
	id string
	// Guarded by s.mu.
	token     string
	state     string // opening, running, closed
	alias     string
	buffer    []byte // the output that a terminal replays
	total     int64
	keep      int // number of bytes that the terminal keeps; 0 means all
	gone      bool
	noTerm    bool // the terminal is gone, but not the output of the task
	raw       []byte
	listeners map[*listener]bool
	tasks     int
	listens   int
	refused   int
}

type listener struct {
	queue []byte
	wake  chan struct{} // capacity 1
	drop  chan struct{}
}

// NewSupervisors starts a server that ends with the test.
func NewSupervisors(t testing.TB) *Supervisors {
	t.Helper()
	s := &Supervisors{t: t, workspaces: map[string]*Workspace{}, changed: make(chan struct{})}
	s.server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(func() {
		s.mu.Lock()
		for _, w := range s.workspaces {
			w.drop()
		}
		s.mu.Unlock()
		s.server.Close()
	})
	return s
}

// Access returns the address and token of a workspace. It fits Manager.Access.
func (s *Supervisors) Access(id string) (url, token string) {
	return s.server.URL + "/" + id, s.Workspace(id).token
}

// Workspace returns the supervisor of a workspace. Its task is in state opening at first.
func (s *Supervisors) Workspace(id string) *Workspace {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.workspaces[id]
	if w == nil {
		w = &Workspace{s: s, id: id, token: "token-of-" + id, state: "opening", listeners: map[*listener]bool{}}
		s.workspaces[id] = w
	}
	return w
}

// Listening returns the number of connections that read output of workspaces.
func (s *Supervisors) Listening() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.workspaces {
		n += len(w.listeners)
	}
	return n
}

func (s *Supervisors) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Supervisors) serve(rw http.ResponseWriter, req *http.Request) {
	id, path, _ := strings.Cut(strings.TrimPrefix(req.URL.Path, "/"), "/_supervisor/v1/")
	w := s.Workspace(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.wake()
	if req.Header.Get("x-gitpod-owner-token") != w.token {
		w.refused++
		http.Error(rw, "", http.StatusUnauthorized)
		return
	}
	listens := strings.HasPrefix(path, "terminal/listen/") || strings.HasPrefix(path, "task/listen/")
	switch {
	case w.gone:
		http.NotFound(rw, req)
	case path == "status/tasks":
		w.tasks++
		fmt.Fprintf(rw, `{"result":{"tasks":[{"id":"task-1","state":%q,"terminal":%q,"presentation":{"name":"build"}}]}}`, w.state, w.alias)
	case path == "terminal/listen/"+w.alias && w.alias != "" && !w.noTerm, path == "task/listen/task-1/output" && w.noTerm:
		w.listen(req.Context(), rw)
	case listens:
		w.listens++
		http.NotFound(rw, req)
	default:
		http.NotFound(rw, req)
	}
}

// listen replays the kept output and then follows. The caller holds the lock.
func (w *Workspace) listen(ctx context.Context, rw http.ResponseWriter) {
	w.listens++
	if w.raw != nil {
		_, _ = rw.Write(w.raw)
		return
	}
	l := &listener{queue: append([]byte(nil), w.buffer...), wake: make(chan struct{}, 1), drop: make(chan struct{})}
	l.wake <- struct{}{}
	w.listeners[l] = true
	defer delete(w.listeners, l)
	w.s.wake()
	for {
		w.s.mu.Unlock()
		select {
		case <-l.wake:
		case <-l.drop:
			w.s.mu.Lock()
			panic(http.ErrAbortHandler)
		case <-ctx.Done():
			w.s.mu.Lock()
			return
		}
		w.s.mu.Lock()
		queue, closed := l.queue, w.state == "closed"
		l.queue = nil
		w.s.mu.Unlock()
		if len(queue) > 0 {
			var value struct {
				Result struct {
					Data []byte `json:"data"`
				} `json:"result"`
			}
			value.Result.Data = queue
			_ = json.NewEncoder(rw).Encode(value)
		}
		_ = http.NewResponseController(rw).Flush()
		w.s.mu.Lock()
		w.s.wake()
		if closed && len(l.queue) == 0 {
			return
		}
	}
}

// drop breaks the connections. The caller holds the lock.
func (w *Workspace) drop() {
	for l := range w.listeners {
		close(l.drop)
		delete(w.listeners, l)
	}
}
