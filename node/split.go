package node

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// helloTime is how long a client of the operators' socket may take until it
// has said which protocol it speaks.
const helloTimeout = 10 * time.Second

// splitListener gives the connections of one listener to two servers: those
// that begin as HTTP/2 does (RFC 9113, section 3.4: "PRI * HTTP/2.0") to gRPC,
// all others to HTTP/1.1.
type splitListener struct {
	l          net.Listener
	grpc, http *protocolListener

	wg      sync.WaitGroup
	mu      sync.Mutex
	pending map[net.Conn]struct{} // have said nothing yet; nil once closed
}

func splitConns(l net.Listener) *splitListener {
	half := func() *protocolListener {
		return &protocolListener{addr: l.Addr(), conns: make(chan net.Conn), stop: make(chan struct{})}
	}
	return &splitListener{l: l, grpc: half(), http: half(), pending: map[net.Conn]struct{}{}}
}

// run accepts until close.
func (s *splitListener) run() {
	defer s.wg.Wait()
	for {
		conn, err := s.l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // out of files, most likely
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

// judge reads how a connection begins and hands it on.
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

// close ends run. Connections that were handed on belong to their servers.
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

// begunConn is a connection whose first bytes were read already.
type prefixedConn struct {
	net.Conn
	prefix []byte
}

// Read answers them first.
func (c *prefixedConn) Read(p []byte) (int, error) {
	if len(c.prefix) > 0 {
		n := copy(p, c.prefix)
		c.prefix = c.prefix[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// splitHalf is the listener of one of the two servers.
type protocolListener struct {
	addr  net.Addr
	conns chan net.Conn
	stop  chan struct{}
	once  sync.Once
}

var _ net.Listener = (*protocolListener)(nil)

func (h *protocolListener) deliver(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.stop:
		_ = c.Close()
	}
}

// Accept waits for a connection of this half's protocol.
func (h *protocolListener) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.stop:
		return nil, net.ErrClosed
	}
}

// Close ends Accept; the other half goes on.
func (h *protocolListener) Close() error {
	h.once.Do(func() { close(h.stop) })
	return nil
}

// Addr is the address of both.
func (h *protocolListener) Addr() net.Addr { return h.addr }
