package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/image-builder-ha/image-builder/cluster/pki"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

// Protocols of the peer port, told apart by ALPN (RFC 7301).
const (
	protoRaft = "raft/1"
	protoGRPC = "h2"
)

// handshakeTime bounds the TLS handshake and the hello of a connection.
const handshakeTime = 5 * time.Second

var errAlone = errors.New("this node is a group of one: it has no peers")

// TLSOptions describe a peer port.
type TLSOptions struct {
	// Cluster is the name of the cluster, the trust domain of certificates.
	Cluster string
	// Listener is the peer port; the network closes it.
	Listener net.Listener
	// Advertise is where other nodes reach it: host:port, a DNS name best.
	Advertise string
	Certs     *pki.Certs
	Logger    *slog.Logger
	// Dial connects to an address; a net.Dialer if nil.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Serving and Calling add options to the server and the connections of the
	// peer API.
	Serving []grpc.ServerOption
	Calling []grpc.DialOption
}

// tlsNetwork serves Raft and the peer API on one port with mutual TLS.
type tlsNetwork struct {
	o     TLSOptions
	local Local
	trans *raft.NetworkTransport
	raft  *streamLayer
	api   *connListener
	grpc  *grpc.Server

	mu    sync.Mutex
	conns map[string]*grpc.ClientConn // by id@address
	open  map[net.Conn]struct{}       // accepted, in their handshake

	refused seldom

	stop chan struct{}
	done sync.WaitGroup
	once sync.Once
}

// NewTLSNetwork answers the network of a node in a cluster of several.
func NewTLSNetwork(o TLSOptions) Network {
	if o.Dial == nil {
		d := &net.Dialer{Timeout: handshakeTime, KeepAlive: 15 * time.Second}
		o.Dial = func(ctx context.Context, address string) (net.Conn, error) { return d.DialContext(ctx, "tcp", address) }
	}
	return &tlsNetwork{
		o: o, conns: map[string]*grpc.ClientConn{}, open: map[net.Conn]struct{}{}, stop: make(chan struct{}),
	}
}

// Open starts to accept connections.
func (n *tlsNetwork) Open(local Local) error {
	n.local = local
	n.api = newConnListener(n.o.Listener.Addr())
	n.raft = newStreamLayer(n)
	n.trans = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: n.raft, MaxPool: 4, Timeout: raftTimeout, ServerAddressProvider: n.raft,
		Logger: hclog.NewNullLogger(), MsgpackUseNewTimeFormat: true,
	})
	n.grpc = grpc.NewServer(append([]grpc.ServerOption{
		grpc.Creds(finishedTLS{}), grpc.MaxRecvMsgSize(64 << 20),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(checkUnary(local)), grpc.ChainStreamInterceptor(checkStream(local)),
	}, n.o.Serving...)...)
	local.Register(n.grpc)
	n.done.Go(func() { _ = n.grpc.Serve(n.api) })
	n.done.Go(n.accept)
	return nil
}

// Raft answers the transport of Raft.
func (n *tlsNetwork) Raft() raft.Transport { return n.trans }

// Address is where others reach this node.
func (n *tlsNetwork) Address() string { return n.o.Advertise }

func (n *tlsNetwork) accept() {
	for {
		conn, err := n.o.Listener.Accept()
		if err != nil {
			select {
			case <-n.stop:
				return
			case <-time.After(10 * time.Millisecond): // out of files, most likely
				continue
			}
		}
		n.mu.Lock()
		n.open[conn] = struct{}{}
		n.mu.Unlock()
		n.done.Go(func() {
			n.handshake(conn)
			n.mu.Lock()
			delete(n.open, conn)
			n.mu.Unlock()
		})
	}
}

// handshake finds out who calls and for what, and hands the connection on.
func (n *tlsNetwork) handshake(raw net.Conn) {
	conn := tls.Server(raw, n.o.Certs.ServerTLS(n.o.Cluster, protoRaft, protoGRPC))
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTime)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		if !errors.Is(err, net.ErrClosed) && !isEOF(err) && n.refused.say(hostOf(raw)+err.Error()) {
			n.o.Logger.Warn("refused a connection to the peer port", "from", raw.RemoteAddr().String(), "err", err)
		}
		_ = raw.Close()
		return
	}
	switch conn.ConnectionState().NegotiatedProtocol {
	case protoRaft:
		n.raft.welcome(conn)
	case protoGRPC:
		n.api.deliver(conn)
	default:
		_ = conn.Close()
	}
}

func hostOf(c net.Conn) string {
	host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
	return host
}

// seldom lets each text be said once in a while.
type seldom struct {
	mu   sync.Mutex
	last map[string]time.Time
}

const (
	seldomPause = 10 * time.Second
	seldomTexts = 256
)

func (s *seldom) say(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Sub(s.last[text]) < seldomPause {
		return false
	}
	if s.last == nil || len(s.last) >= seldomTexts {
		s.last = map[string]time.Time{}
	}
	s.last[text] = now
	return true
}

// dialTLS connects to a node for one protocol.
func (n *tlsNetwork) dialTLS(ctx context.Context, address, name, proto string) (*tls.Conn, error) {
	raw, err := n.o.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, n.o.Certs.ClientTLS(n.o.Cluster, name, proto))
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("TLS with %s: %w", address, err)
	}
	return conn, nil
}

// Conn answers a connection to the peer API. Connections are kept and shared.
func (n *tlsNetwork) Conn(id raft.ServerID, address string) (grpc.ClientConnInterface, error) {
	if address == "" {
		return nil, fmt.Errorf("the address of node %s is not known", id)
	}
	key := string(id) + "@" + address
	n.mu.Lock()
	defer n.mu.Unlock()
	if c := n.conns[key]; c != nil {
		return c, nil
	}
	select {
	case <-n.stop:
		return nil, ErrClosed
	default:
	}
	c, err := grpc.NewClient("passthrough:///"+address, append([]grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(n.o.Certs.ClientTLS(n.o.Cluster, nameOf(id), protoGRPC))),
		grpc.WithContextDialer(n.o.Dial),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, Jitter: .2, MaxDelay: time.Second},
			MinConnectTimeout: handshakeTime,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 2 * time.Second, Timeout: 2 * time.Second, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64 << 20)),
		grpc.WithChainUnaryInterceptor(nameUnary(n.local, id)), grpc.WithChainStreamInterceptor(nameStream(n.local, id)),
	}, n.o.Calling...)...)
	if err != nil {
		return nil, fmt.Errorf("node address %q: %w", address, err)
	}
	n.conns[key] = c
	return c, nil
}

// Probe dials the peer port and hangs up.
func (n *tlsNetwork) Probe(ctx context.Context, address string) error {
	conn, err := n.o.Dial(ctx, address)
	if err == nil {
		_ = conn.Close()
	}
	return err
}

// Close ends all connections.
func (n *tlsNetwork) Close() error {
	n.once.Do(func() {
		close(n.stop)
		_ = n.o.Listener.Close()
		if n.grpc != nil {
			n.api.Close()
			n.raft.Close()
			n.grpc.Stop()
			_ = n.trans.Close()
		}
		n.mu.Lock()
		for _, c := range n.conns {
			_ = c.Close()
		}
		for c := range n.open {
			_ = c.Close()
		}
		n.mu.Unlock()
	})
	n.done.Wait()
	return nil
}

// finishedTLS gives gRPC connections whose handshake is done.
type finishedTLS struct {
	credentials.TransportCredentials
}

// ServerHandshake tells gRPC what the handshake has found.
func (finishedTLS) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	t, ok := conn.(*tls.Conn)
	if !ok {
		return nil, nil, errors.New("not a TLS connection")
	}
	return conn, credentials.TLSInfo{
		State:          t.ConnectionState(),
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}, nil
}

// Info says that this is TLS.
func (finishedTLS) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone answers the same.
func (f finishedTLS) Clone() credentials.TransportCredentials { return f }

// connListener is a listener that is given its connections.
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

// Accept waits for a connection.
func (l *connListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.stop:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (l *connListener) Close() error {
	l.once.Do(func() { close(l.stop) })
	return nil
}

// Addr is the peer port.
func (l *connListener) Addr() net.Addr { return l.addr }
