package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// streamLayer makes the connections of Raft. Each begins with a hello that names both servers,
// because another node may have taken over the address.
type streamLayer struct {
	*connListener
	net *tlsNetwork

	mu   sync.Mutex
	open map[*peerConn]struct{}
}

var (
	_ raft.StreamLayer           = (*streamLayer)(nil)
	_ raft.ServerAddressProvider = (*streamLayer)(nil)
)

func newStreamLayer(n *tlsNetwork) *streamLayer {
	return &streamLayer{connListener: newConnListener(advertised(n.opts.Advertise)), net: n, open: map[*peerConn]struct{}{}}
}

// advertised is the address of this node for Raft.
type advertised string

func (advertised) Network() string  { return "tcp" }
func (a advertised) String() string { return string(a) }

// ServerAddr returns ID@ADDRESS, so that Dial knows the server as well.
func (l *streamLayer) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	address := l.net.local.AddressOf(id)
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
	conn, err := l.net.dialTLS(ctx, address, nameOf(raft.ServerID(id)), protoRaft)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	var reply clusterv1.RaftHelloReply
	admit := l.net.local.Admission() // before the other end makes its identity
	if err = writeFrame(conn, &clusterv1.RaftHello{From: l.net.local.Identity(), To: id}); err == nil {
		err = readFrame(conn, &reply)
	}
	if err == nil && reply.Refusal != "" {
		l.net.opts.Logger.Warn("a node refuses this one", "node", id, "address", address, "reason", reply.Refusal)
		err = errors.New(reply.Refusal)
	}
	if err == nil && reply.Node != nil {
		err = admit(reply.Node, l.net.local.Identity().GetServerId())
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
		c.once.Do(func() { c.layer.net.local.Lost(c.to) })
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
	reply := clusterv1.RaftHelloReply{Node: l.net.local.Identity()}
	if err := admit(hello.GetFrom(), hello.GetTo()); err != nil {
		reply.Refusal = err.Error()
		l.net.opts.Logger.Warn("refused a node", "node", hello.GetFrom().GetServerId(), "address", hello.GetFrom().GetAddress(), "reason", reply.Refusal)
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
		c.once.Do(func() { c.layer.net.local.Lost(c.from) })
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

// maxFrame is the greatest size of a hello, in bytes.
const maxFrame = 64 << 10

func writeFrame(w io.Writer, m proto.Message) error {
	raw, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(raw))), raw...))
	return err
}

func readFrame(r io.Reader, m proto.Message) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxFrame {
		return fmt.Errorf("a hello of %d bytes is too long", n)
	}
	raw := make([]byte, n)
	if _, err := io.ReadFull(r, raw); err != nil {
		return err
	}
	return proto.Unmarshal(raw, m)
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

// nameOf returns the node name in a server id.
func nameOf(id raft.ServerID) string {
	name, _, _ := strings.Cut(string(id), "/")
	return name
}
