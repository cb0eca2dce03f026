package transport

import (
	"net"
	"sync"
)

// connListener is a listener whose connections come from deliver.
type connListener struct {
	addr  net.Addr
	conns chan net.Conn
	stop  chan struct{}
	once  sync.Once
}

func newConnListener(addr net.Addr) *connListener {
	return &connListener{addr: addr, conns: make(chan net.Conn), stop: make(chan struct{})}
}

func (l *connListener) deliver(c net.Conn) {
	select {
	case l.conns <- c:
	case <-l.stop:
		_ = c.Close()
	}
}

// Accept waits for the next connection. It returns net.ErrClosed after Close.
func (l *connListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.stop:
		return nil, net.ErrClosed
	}
}

// Close makes Accept return net.ErrClosed.
func (l *connListener) Close() error {
	l.once.Do(func() { close(l.stop) })
	return nil
}

// Addr returns the address of the peer port.
func (l *connListener) Addr() net.Addr { return l.addr }
