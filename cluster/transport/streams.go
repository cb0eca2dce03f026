package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/cluster/serverid"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// streamLayer makes the connections of Raft. Each begins with a hello that names both servers,
// because another node may have taken over the address.
type streamLayer struct {
	*connListener
	local Local
	log   *slog.Logger
	// dial opens a TLS connection to a node for one protocol.
	dial func(ctx context.Context, address, name, proto string) (*tls.Conn, error)

	mu   sync.Mutex
	open map[*peerConn]struct{}
}

var (
	_ raft.StreamLayer           = (*streamLayer)(nil)
	_ raft.ServerAddressProvider = (*streamLayer)(nil)
)

// newStreamLayer returns the layer of a node with an advertised address.
func newStreamLayer(address string, local Local, log *slog.Logger, dial func(ctx context.Context, address, name, proto string) (*tls.Conn, error)) *streamLayer {
	return &streamLayer{connListener: newConnListener(advertised(address)), local: local, log: log, dial: dial, open: map[*peerConn]struct{}{}}
}

// advertised is the address of this node for Raft.
type advertised string

func (advertised) Network() string  { return "tcp" }
func (a advertised) String() string { return string(a) }

// ServerAddr returns ID@ADDRESS, so that Dial knows the server as well.
func (l *streamLayer) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	address := l.local.AddressOf(id)
	if address == "" {
		return "", fmt.Errorf("the address of node %s is not known", id)
	}
	return raft.ServerAddress(string(id) + "@" + address), nil
}

// Dial connects to an address of ServerAddr. It returns an error if the node there refuses this
// one.
func (l *streamLayer) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	at := strings.LastIndexByte(string(to), '@')
	if at < 0 {
		return nil, fmt.Errorf("%s does not name its server", to)
	}
	id, address := string(to[:at]), string(to[at+1:])
	ctx, cancel := context.WithTimeout(context.Background(), min(timeout, handshakeTimeout))
	defer cancel()
	conn, err := l.dial(ctx, address, serverid.Name(raft.ServerID(id)), protoRaft)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	var reply clusterv1.RaftHelloReply
	admit := l.local.Admission() // before the other end makes its identity
	if err = writeFrame(conn, &clusterv1.RaftHello{From: l.local.Identity(), To: id}); err == nil {
		err = readFrame(conn, &reply)
	}
	if err == nil && reply.Refusal != "" {
		l.log.Warn("a node refuses this one", "node", id, "address", address, "reason", reply.Refusal)
		err = errors.New(reply.Refusal)
	}
	if err == nil && reply.Node != nil {
		err = admit(reply.Node, l.local.Identity().GetServerId())
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("connect to node %s at %s: %w", id, address, err)
	}
	_ = conn.SetDeadline(time.Time{})
	return &dialedConn{Conn: conn, layer: l, to: raft.ServerID(id)}, nil
}

// dialedConn is a connection to a server. On the leader, its end is a sign that the process of a
// follower may have died.
type dialedConn struct {
	net.Conn
	layer *streamLayer
	to    raft.ServerID
	once  sync.Once
}

// Read calls Lost at the end of the connection, unless this side has closed it.
func (c *dialedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.once.Do(func() { c.layer.local.Lost(c.to) })
	}
	return n, err
}

// welcome responds to the hello of an accepted connection and passes the connection to Raft. admit
// is an Admission from before the TLS handshake, so that the caller has made its identity later.
func (l *streamLayer) welcome(conn net.Conn, admit func(from *clusterv1.Identity, to string) error) {
	_ = conn.SetDeadline(time.Now().Add(handshakeTimeout))
	var hello clusterv1.RaftHello
	if err := readFrame(conn, &hello); err != nil {
		_ = conn.Close()
		return
	}
	reply := clusterv1.RaftHelloReply{Node: l.local.Identity()}
	if err := admit(hello.GetFrom(), hello.GetTo()); err != nil {
		reply.Refusal = err.Error()
		l.log.Warn("refused a node", "node", hello.GetFrom().GetServerId(), "address", hello.GetFrom().GetAddress(), "reason", reply.Refusal)
	}
	if err := writeFrame(conn, &reply); err != nil || reply.Refusal != "" {
		_ = conn.Close()
		return
	}
	_ = conn.SetDeadline(time.Time{})
	c := &peerConn{Conn: conn, layer: l, from: raft.ServerID(hello.GetFrom().GetServerId())}
	l.mu.Lock()
	l.open[c] = struct{}{}
	l.mu.Unlock()
	l.deliver(c)
}

// Close stops accepting and closes all accepted connections.
func (l *streamLayer) Close() error {
	err := l.connListener.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.open {
		_ = c.Conn.Close()
	}
	return err
}

// peerConn is an accepted connection of a known server. Its end is the first sign that the server's
// process has died: the kernel closes the sockets of a process at once.
type peerConn struct {
	net.Conn
	layer *streamLayer
	from  raft.ServerID
	once  sync.Once
}

// Read calls Lost at the end of the connection.
func (c *peerConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		c.once.Do(func() { c.layer.local.Lost(c.from) })
	}
	return n, err
}

// Close closes the connection and removes it from the layer.
func (c *peerConn) Close() error {
	c.layer.mu.Lock()
	delete(c.layer.open, c)
	c.layer.mu.Unlock()
	return c.Conn.Close()
}
