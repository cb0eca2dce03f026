package node

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/http/pprof"

	"github.com/image-builder-ha/image-builder/faults"
)

// profiles answers what profiles show: memory, and so whatever is in it.
func (n *Node) profiles() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	if control := faults.Handler(); control != nil {
		mux.Handle("/faults", control)
	}
	return mux
}

// pprofTLS makes the port of profiles one for operators, with the certificates
// of the API's port. Where that port knows no operators, it stays what
// Validate has allowed: plain, on loopback.
func (n *Node) pprofTLS(l net.Listener) (net.Listener, error) {
	if l == nil || !n.cfg.KnowsOperators() {
		return l, nil
	}
	conf, err := serverTLS("server.services.grpc.tls", n.cfg.Server.Services.GRPC.TLS, n.log, "http/1.1")
	if err != nil {
		return nil, err
	}
	return tls.NewListener(l, conf), nil
}
