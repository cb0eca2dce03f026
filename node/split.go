package node

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// helloTimeout is how long a client of the unix socket may take to send the first bytes, which show
// its protocol.
const helloTimeout = 10 * time.Second

// splitListener distributes the connections of one listener to two servers: those that begin with
// the preface of HTTP/2 ("PRI * HTTP/2.0", RFC 9113, section 3.4) to the gRPC server, all others to
// the HTTP/1.1 server.
type splitListener struct {
	l          net.Listener
	grpc, http *protocolListener

	wg      sync.WaitGroup
	mu      sync.Mutex
	pending map[net.Conn]struct{} // connections of unknown protocol; nil after close
}

// splitConns returns a splitListener on l. The caller calls run and close.
func splitConns(l net.Listener) *splitListener {
	newListener := func() *protocolListener {
		return &protocolListener{addr: l.Addr(), conns: make(chan net.Conn), stop: make(chan struct{})}
	}
	return &splitListener{l: l, grpc: newListener(), http: newListener(), pending: map[net.Conn]struct{}{}}
}

// run accepts connections until close, and waits until all of them are routed.
func (s *splitListener) run() {
	defer s.wg.Wait()
	for {
		conn, err := s.l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // most likely the process is out of file descriptors
			select {
			case <-s.grpc.stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
			continue
		}
		s.mu.Lock()
		if s.pending == nil {
			s.mu.Unlock()
			_ = conn.Close()
			return
		}
		s.pending[conn] = struct{}{}
		s.mu.Unlock()
		s.wg.Go(func() { s.route(conn) })
	}
}

// route reads the first bytes of a connection and gives it to the server of its protocol.
func (s *splitListener) route(conn net.Conn) {
	const preface = "PRI"
	_ = conn.SetReadDeadline(time.Now().Add(helloTimeout))
	head := make([]byte, len(preface))
	_, err := io.ReadFull(conn, head)
	s.mu.Lock()
	delete(s.pending, conn)
	s.mu.Unlock()
	if err != nil {
		_ = conn.Close()
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	to := s.http
	if string(head) == preface {
		to = s.grpc
	}
	to.deliver(&prefixedConn{Conn: conn, prefix: head})
}

// close closes the listener and the connections of unknown protocol, and ends run. The servers
// close the connections that they have received.
func (s *splitListener) close() {
	_ = s.l.Close()
	s.mu.Lock()
	for conn := range s.pending {
		_ = conn.Close()
	}
	s.pending = nil
	s.mu.Unlock()
	_ = s.grpc.Close()
	_ = s.http.Close()
}

// prefixedConn is a connection whose first bytes have been read already.
type prefixedConn struct {
	net.Conn
	prefix []byte
}

// Read returns the first bytes, then the rest.
func (c *prefixedConn) Read(p []byte) (int, error) {
	if len(c.prefix) > 0 {
		n := copy(p, c.prefix)
		c.prefix = c.prefix[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// protocolListener is the listener of one of the two servers.
type protocolListener struct {
	addr  net.Addr
	conns chan net.Conn
	stop  chan struct{}
	once  sync.Once
}

var _ net.Listener = (*protocolListener)(nil)

// deliver gives a connection to Accept, or closes it if the listener is closed.
func (h *protocolListener) deliver(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.stop:
		_ = c.Close()
	}
}

// Accept waits for a connection of the protocol of this listener.
func (h *protocolListener) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.stop:
		return nil, net.ErrClosed
	}
}

// Close ends Accept. It does not close the shared listener.
func (h *protocolListener) Close() error {
	h.once.Do(func() { close(h.stop) })
	return nil
}

// Addr returns the address of the shared listener.
func (h *protocolListener) Addr() net.Addr { return h.addr }
