package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/image-builder-ha/image-builder/api"
	"github.com/image-builder-ha/image-builder/api/loginfo"
	"github.com/image-builder-ha/image-builder/web"
)

// httpServers are the HTTP servers of a node.
type httpServers struct{ all []*http.Server }

// serveHTTP starts an HTTP server on each listener: metrics, health, profiles, and the port of the
// web page and of logs. socket is the unix socket for operators, which serves profiles beside gRPC;
// nil without one. Serving goroutines run in wg, and send to failed if they end by themselves.
func (n *Node) serveHTTP(l listeners, socket *splitListener, wg *sync.WaitGroup, failed chan<- error) *httpServers {
	metrics := http.NewServeMux()
	metrics.Handle("/metrics", promhttp.HandlerFor(n.metrics, promhttp.HandlerOpts{Registry: n.metrics}))
	health := http.NewServeMux()
	health.HandleFunc("/live", n.serveLive)
	health.HandleFunc("/ready", n.serveReady)
	profile := n.profiles()
	h := &httpServers{}
	var operators net.Listener
	if socket != nil {
		operators = socket.http
	}
	for _, x := range []struct {
		l   net.Listener
		mux http.Handler
	}{{l.metrics, metrics}, {l.health, health}, {l.pprof, n.onlyOperators(profile)}, {operators, profile}, {l.http, n.refuseHTTP(n.publicHandler())}} {
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

// stop waits for requests in progress, and cuts them off after grace.
func (h *httpServers) stop(grace time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	for _, srv := range h.all {
		if srv.Shutdown(ctx) != nil {
			_ = srv.Close()
		}
	}
}

// publicHandler returns the handler of the HTTP port: logs for clients of Gitpod, notifications of
// registries and, if configured, the web page.
func (n *Node) publicHandler() http.Handler {
	logs := n.logInfoHandler()
	if n.cfg.HTTP.UI != "on" {
		return logs
	}
	page := web.New(web.Options{
		API: api.Native{Service: n.service}, Node: n.cfg.Name, Nodes: n.cfg.HTTP.Nodes, Streams: n.streams, Log: n.log,
	})
	mux := http.NewServeMux()
	mux.Handle("/ui/", page)
	mux.Handle("GET /{$}", http.RedirectHandler(web.Path, http.StatusFound))
	mux.Handle("/", logs)
	return mux
}

// logInfoHandler returns the handler of logs for clients of Gitpod, and of notifications of
// registries if they have a token.
func (n *Node) logInfoHandler() http.Handler {
	l := &loginfo.Server{Builds: n.service, Tokens: loginfo.Tokens{Keys: n.keyring}, Streams: n.streams}
	mux := http.NewServeMux()
	mux.Handle("/", l.Handler())
	if n.cfg.RefCache.NotifyTokenFile != "" {
		mux.HandleFunc("POST "+notifyPath, n.handleNotification)
	}
	return mux
}

// httpTLS returns the listener of the HTTP port with TLS, if it has certificates.
func (n *Node) httpTLS(l net.Listener) (net.Listener, error) {
	conf, err := serverTLS("http.tls", n.cfg.HTTP.TLS, n.log, "http/1.1")
	if l == nil || conf == nil || err != nil {
		return l, err
	}
	return tls.NewListener(l, conf), nil
}
