package node

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
)

// listeners are all sockets of a node; nil if not configured. The node opens them before anything
// else, so that a port in use is found before the data directory is opened.
type listeners struct {
	grpc, operator, metrics, health, pprof, peer, http net.Listener
}

// listen opens all sockets of the configuration. If it returns an error, it has closed them.
func (n *Node) listen() (l listeners, err error) {
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	for _, x := range []struct {
		to      *net.Listener
		address string
		key     string
	}{
		{&l.grpc, n.cfg.Server.Services.GRPC.Address, "server.services.grpc.address"},
		{&l.metrics, n.cfg.MetricsAddress, "metricsAddress"},
		{&l.health, n.cfg.HealthAddress, "healthAddress"},
		{&l.pprof, n.cfg.PprofAddress, "pprofAddress"},
		{&l.peer, n.cfg.Cluster.Address, "cluster.address"},
		{&l.http, n.cfg.HTTP.Listens(), "http.address"},
	} {
		if x.address == "" {
			continue
		}
		if *x.to, err = n.parts.Listen("tcp", x.address); err != nil {
			return l, ListenError(x.key, x.address, err)
		}
	}
	if path := n.cfg.OperatorSocket; path != "" {
		if l.operator, err = listenUnix(path); err != nil {
			return l, ListenError("operatorSocket", path, err)
		}
	}
	return l, nil
}

// ListenError returns the error of opening an address that stands under a key of the configuration,
// or comes from a flag. It says what to do about an address in use.
func ListenError(key, address string, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s: %s is in use by another process; stop it or choose another address", key, address)
	}
	return fmt.Errorf("%s: listen on %s: %w", key, address, err)
}

// listenUnix listens on a unix socket that only the user of this process can open. It replaces the
// file that a killed process left behind, and returns EADDRINUSE if another process listens there.
func listenUnix(path string) (net.Listener, error) {
	if conn, err := net.Dial("unix", path); err == nil {
		_ = conn.Close()
		return nil, syscall.EADDRINUSE
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

// close closes the open sockets. It may be called more than once.
func (l listeners) close() {
	for _, x := range []net.Listener{l.grpc, l.operator, l.metrics, l.health, l.pprof, l.peer, l.http} {
		if x != nil {
			_ = x.Close()
		}
	}
}
