package node

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/http/pprof"

	"github.com/image-builder-ha/image-builder/faults"
)

// profiles returns the handler of profiles and, in a binary with fault points, of their control.
// Profiles show the memory of the process, which contains secrets: only operators may read them.
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

// pprofTLS returns the listener of the port of profiles with the certificates of the API port,
// which identify operators. Without such certificates the port stays unencrypted; config.Validate
// has allowed it on loopback only.
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
