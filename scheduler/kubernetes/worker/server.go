package worker

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/podapi"
)

// server serves the state and the output of the workload to owners (podapi.Path constants).
type server struct {
	token  string
	report *report
	final  chan struct{} // closed when an owner knows everything
	once   sync.Once
}

func newServer(token string, r *report) *server {
	return &server{token: token, report: r, final: make(chan struct{})}
}

// serve serves on l until ctx ends, and closes l.
func (s *server) serve(ctx context.Context, l net.Listener, cert tls.Certificate) error {
	srv := &http.Server{
		Handler:           s,
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13},
		ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	done := make(chan error, 1)
	go func() { done <- srv.ServeTLS(l, "", "") }()
	select {
	case err := <-done:
		return fmt.Errorf("serve the owner: %w", err)
	case <-ctx.Done():
	}
	// Let responses in progress finish, such as the response to the last acknowledgement.
	shut, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	err := srv.Shutdown(shut)
	if err != nil {
		err = srv.Close()
	}
	<-done
	return err
}

// ServeHTTP serves one request of an owner.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if subtle.ConstantTimeCompare([]byte(token), []byte(s.token)) != 1 {
		http.Error(w, "the token does not belong to this pod", http.StatusUnauthorized)
		return
	}
	switch {
	case r.URL.Path == podapi.PathOutput && r.Method == http.MethodGet:
		s.output(w, r)
	case r.URL.Path == podapi.PathState && r.Method == http.MethodGet:
		s.state(w, r)
	case r.URL.Path == podapi.PathAck && r.Method == http.MethodPost:
		s.ack(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (s *server) output(w http.ResponseWriter, r *http.Request) {
	offset, err := strconv.ParseInt(r.URL.Query().Get("offset"), 10, 64)
	if err != nil {
		http.Error(w, "offset must be a number", http.StatusBadRequest)
		return
	}
	switch err := s.report.spool.check(offset); {
	case errors.Is(err, errGone):
		http.Error(w, err.Error(), http.StatusGone)
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusRequestedRangeNotSatisfiable)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.WriteHeader(http.StatusOK)
	control := http.NewResponseController(w)
	if control.Flush() != nil {
		return
	}
	if err := s.report.spool.copy(r.Context(), w, control.Flush, offset); err != nil {
		panic(http.ErrAbortHandler) // so that the output does not look complete
	}
}

func (s *server) state(w http.ResponseWriter, r *http.Request) {
	after, err := strconv.ParseUint(r.URL.Query().Get("after"), 10, 64)
	if err != nil {
		http.Error(w, "after must be a number", http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), podapi.StateWait*time.Second)
	defer cancel()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(s.report.after(ctx, after)) // after a broken connection the owner asks again
}

func (s *server) ack(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	offset, err := strconv.ParseInt(q.Get("offset"), 10, 64)
	if err != nil || offset < 0 {
		http.Error(w, "offset must be a number", http.StatusBadRequest)
		return
	}
	if err := s.report.spool.ack(offset); err != nil {
		http.Error(w, err.Error(), http.StatusRequestedRangeNotSatisfiable)
		return
	}
	if q.Get("final") == "true" && s.report.after(r.Context(), 0).Result != nil {
		s.once.Do(func() { close(s.final) })
	}
	w.WriteHeader(http.StatusNoContent)
}
