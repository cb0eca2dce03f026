package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// panicked reports a panic in a call. The message of the panic may hold
// anything, so that the client does not get it.
func (n *Node) panicError(method string, p any) error {
	n.log.Error("panic in a call", "method", method, "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
	return status.Errorf(codes.Internal, "%s failed by a defect of the service; its log has the details", method)
}

type httpServers struct{ all []*http.Server }

func (n *Node) serveHTTP(l listeners, socket *splitListener, wg *sync.WaitGroup, failed chan<- error) *httpServers {
	metrics := http.NewServeMux()
	metrics.Handle("/metrics", promhttp.HandlerFor(n.metrics, promhttp.HandlerOpts{Registry: n.metrics}))
	health := http.NewServeMux()
	health.HandleFunc("/live", n.serveLive)
	health.HandleFunc("/ready", n.serveReady)
	profile := n.profiles()
	h := &httpServers{}
	var operators net.Listener // profiles on the operators' socket, beside gRPC
	if socket != nil {
		operators = socket.http
	}
	for _, x := range []struct {
		l   net.Listener
		mux http.Handler
	}{{l.metrics, metrics}, {l.health, health}, {l.pprof, n.onlyOperators(profile)}, {operators, profile}, {l.http, n.publicHandler()}} {
		if x.l == nil {
			continue
		}
		srv := &http.Server{Handler: x.mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
		h.all = append(h.all, srv)
		wg.Go(func() {
			if err := srv.Serve(x.l); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serve HTTP on %s: %w", x.l.Addr(), err)
			}
		})
	}
	return h
}

func (h *httpServers) stop(grace time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	for _, srv := range h.all {
		if srv.Shutdown(ctx) != nil {
			_ = srv.Close()
		}
	}
}
