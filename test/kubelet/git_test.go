//go:build kubernetes

package kubelet_test

import (
	"net"
	"net/http"
	"testing"

	"github.com/image-builder-ha/image-builder/test/kubelet"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// newGitRepo serves a git repository that pods can reach. A password is optional.
func newGitRepo(t *testing.T, password string) *testkit.GitRepo {
	t.Helper()
	return testkit.NewGitRepo(t, testkit.GitServer{Addr: kubelet.Address + ":0", Password: password})
}

// serve starts an HTTP server that pods can reach, and returns its URL.
func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	return serveAt(t, kubelet.Address+":0", h)
}

func serveAt(t *testing.T, addr string, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // Close ends it
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	return "http://" + l.Addr().String()
}
