//go:build faults

package chaos

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

const (
	// peerPort is the port at which a node listens for the others.
	peerPort = "7800"
	// onTime is how long the data of a new connection is not delayed, so that its handshake succeeds.
	onTime = 300 * time.Millisecond
)

// lateProxy forwards connections to one address. The data of a connection with gRPC is late, and
// each such connection breaks on the side of the client after a while. Data that the client has
// sent before still arrives, after data of later connections.
type lateProxy struct {
	addr    string // host:port
	target  string
	longest time.Duration // the longest delay
	l       net.Listener
	ctx     context.Context
	stop    context.CancelFunc
	tasks   sync.WaitGroup
}

// newLateProxy listens on an address of the test host. The caller closes the proxy.
func newLateProxy(host, target string, longest time.Duration) (*lateProxy, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, fmt.Errorf("listen for late calls: %w", err)
	}
	p := &lateProxy{addr: l.Addr().String(), target: target, longest: longest, l: l}
	p.ctx, p.stop = context.WithCancel(context.Background())
	p.tasks.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			p.tasks.Go(func() { p.forward(conn) })
		}
	})
	return p, nil
}

// close breaks all connections, and returns once their late data has arrived.
func (p *lateProxy) close() {
	p.stop()
	_ = p.l.Close()
	p.tasks.Wait()
}

// chunk is data of a client.
type chunk struct {
	at   time.Time // when it may arrive
	data []byte
}

// forward forwards one connection.
func (p *lateProxy) forward(client net.Conn) {
	defer client.Close()
	server, err := net.DialTimeout("tcp", p.target, time.Second)
	if err != nil {
		return
	}
	defer server.Close()
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = client.Close() })()
	var back sync.WaitGroup
	back.Go(func() {
		defer cancel()
		buf := make([]byte, 64<<10)
		for {
			n, err := server.Read(buf)
			if n > 0 {
				_, _ = client.Write(buf[:n]) // the client may be gone
			}
			if err != nil {
				return
			}
		}
	})
	chunks := make(chan chunk, 4096)
	back.Go(func() {
		defer server.Close()
		for c := range chunks {
			wait(context.Background(), time.Until(c.at))
			if _, err := server.Write(c.data); err != nil {
				cancel()
			}
		}
	})
	begun, delay := time.Now(), rand.N(p.longest+1)
	for first := true; ; first = false {
		buf := make([]byte, 64<<10)
		n, err := client.Read(buf)
		if err != nil {
			break
		}
		if first && !bytes.Contains(buf[:n], []byte("\x02h2")) { // the protocol in the ClientHello
			delay, begun = 0, time.Now().Add(24*time.Hour)
		} else if first {
			t := time.AfterFunc(onTime+rand.N(p.longest+1), func() {
				_ = client.(*net.TCPConn).SetLinger(0) // closing sends a reset
				cancel()
			})
			defer t.Stop()
		}
		at := time.Now()
		if at.Sub(begun) > onTime {
			at = at.Add(delay)
		}
		select {
		case chunks <- chunk{at, buf[:n]}:
		default: // the server reads nothing
			cancel()
		}
	}
	close(chunks)
	back.Wait()
}
