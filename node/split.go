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
const helloTime = 10 * time.Second

// splitListener gives the connections of one listener to two servers: those
// that begin as HTTP/2 does (RFC 9113, section 3.4: "PRI * HTTP/2.0") to gRPC,
// all others to HTTP/1.1.
type splitListener struct {
	l          net.Listener
	grpc, http *splitHalf

	done sync.WaitGroup
	mu   sync.Mutex
	open map[net.Conn]struct{} // have said nothing yet; nil once closed
}

func splitConns(l net.Listener) *splitListener {
	half := func() *splitHalf {
		return &splitHalf{addr: l.Addr(), conns: make(chan net.Conn), stop: make(chan struct{})}
	}
	return &splitListener{l: l, grpc: half(), http: half(), open: map[net.Conn]struct{}{}}
}

// run accepts until close.
func (s *splitListener) run() {
	defer s.done.Wait()
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
		if s.open == nil {
			s.mu.Unlock()
			_ = conn.Close()
			return
		}
		s.open[conn] = struct{}{}
		s.mu.Unlock()
		s.done.Go(func() { s.judge(conn) })
	}
}

// judge reads how a connection begins and hands it on.
func (s *splitListener) judge(conn net.Conn) {
	const preface = "PRI"
	_ = conn.SetReadDeadline(time.Now().Add(helloTime))
	head := make([]byte, len(preface))
	_, err := io.ReadFull(conn, head)
	s.mu.Lock()
	delete(s.open, conn)
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
	to.deliver(&begunConn{Conn: conn, head: head})
}

// close ends run. Connections that were handed on belong to their servers.
func (s *splitListener) close() {
	_ = s.l.Close()
	s.mu.Lock()
	for conn := range s.open {
		_ = conn.Close()
	}
	s.open = nil
	s.mu.Unlock()
	_ = s.grpc.Close()
	_ = s.http.Close()
}

// begunConn is a connection whose first bytes were read already.
type begunConn struct {
	net.Conn
	head []byte
}

// Read answers them first.
func (c *begunConn) Read(p []byte) (int, error) {
	if len(c.head) > 0 {
		n := copy(p, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// splitHalf is the listener of one of the two servers.
type splitHalf struct {
	addr  net.Addr
	conns chan net.Conn
	stop  chan struct{}
	once  sync.Once
}

var _ net.Listener = (*splitHalf)(nil)

func (h *splitHalf) deliver(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.stop:
		_ = c.Close()
	}
}

// Accept waits for a connection of this half's protocol.
func (h *splitHalf) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.stop:
		return nil, net.ErrClosed
	}
}

// Close ends Accept; the other half goes on.
func (h *splitHalf) Close() error {
	h.once.Do(func() { close(h.stop) })
	return nil
}

// Addr is the address of both.
func (h *splitHalf) Addr() net.Addr { return h.addr }
