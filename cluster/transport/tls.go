package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/image-builder-ha/image-builder/cluster/pki"
	"github.com/image-builder-ha/image-builder/cluster/serverid"
	"github.com/image-builder-ha/image-builder/internal/loglimit"
)

// callTimeout bounds one call of Raft, its dial included.
const callTimeout = 10 * time.Second

var errClosed = errors.New("the node is closed")

// TLSOptions configures the network of a peer port.
type TLSOptions struct {
	// Cluster is the name of the cluster. It is also the trust domain of the certificates.
	Cluster string
	// Listener accepts connections of the peer port. The network closes it.
	Listener net.Listener
	// Advertise is the host:port at which other nodes reach the port, preferably with a DNS name.
	Advertise string
	Certs     *pki.Certs
	Logger    *slog.Logger
	// Dial connects to an address; a net.Dialer if nil.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Serving and Calling are further options of the peer API's server and of its connections.
	Serving []grpc.ServerOption
	Calling []grpc.DialOption
}

// tlsNetwork serves Raft and the peer API on one port with mutual TLS.
type tlsNetwork struct {
	opts  TLSOptions
	local Local
	trans *raft.NetworkTransport
	raft  *streamLayer
	api   *connListener
	grpc  *grpc.Server

	mu    sync.Mutex
	conns map[string]*grpc.ClientConn // key: id@address
	open  map[net.Conn]struct{}       // accepted, handshake in progress

	refusals loglimit.Limiter

	stop chan struct{}
	done sync.WaitGroup
	once sync.Once
}

// NewTLS returns the network of a node in a cluster of several nodes.
func NewTLS(o TLSOptions) Network {
	if o.Dial == nil {
		d := &net.Dialer{Timeout: handshakeTimeout, KeepAlive: 15 * time.Second}
		o.Dial = func(ctx context.Context, address string) (net.Conn, error) { return d.DialContext(ctx, "tcp", address) }
	}
	return &tlsNetwork{
		opts: o, conns: map[string]*grpc.ClientConn{}, open: map[net.Conn]struct{}{}, stop: make(chan struct{}),
	}
}

// Open starts to accept connections.
func (n *tlsNetwork) Open(local Local) error {
	n.local = local
	n.api = newConnListener(n.opts.Listener.Addr())
	n.raft = newStreamLayer(n.opts.Advertise, local, n.opts.Logger, n.dialTLS)
	n.trans = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: n.raft, MaxPool: 4, Timeout: callTimeout, ServerAddressProvider: n.raft,
		Logger: hclog.NewNullLogger(), MsgpackUseNewTimeFormat: true,
	})
	n.grpc = grpc.NewServer(append([]grpc.ServerOption{
		grpc.Creds(finishedTLS{}), grpc.MaxRecvMsgSize(64 << 20),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(checkUnary(local)), grpc.ChainStreamInterceptor(checkStream(local)),
	}, n.opts.Serving...)...)
	local.Register(n.grpc)
	n.done.Go(func() { _ = n.grpc.Serve(n.api) })
	n.done.Go(n.accept)
	return nil
}

// Raft returns the transport of Raft.
func (n *tlsNetwork) Raft() raft.Transport { return n.trans }

// Address returns Advertise.
func (n *tlsNetwork) Address() string { return n.opts.Advertise }

func (n *tlsNetwork) accept() {
	for {
		conn, err := n.opts.Listener.Accept()
		if err != nil {
			select {
			case <-n.stop:
				return
			case <-time.After(10 * time.Millisecond): // most likely no free file descriptor
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

// handshake authenticates a connection and passes it to Raft or to gRPC.
func (n *tlsNetwork) handshake(raw net.Conn) {
	conn := tls.Server(raw, n.opts.Certs.ServerTLS(n.opts.Cluster, protoRaft, protoGRPC))
	admit := n.local.Admission()
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		if !errors.Is(err, net.ErrClosed) && !isEOF(err) && n.refusals.Allow(hostOf(raw)+err.Error()) {
			n.opts.Logger.Warn("refused a connection to the peer port", "from", raw.RemoteAddr().String(), "err", err)
		}
		_ = raw.Close()
		return
	}
	switch conn.ConnectionState().NegotiatedProtocol {
	case protoRaft:
		n.raft.welcome(conn, admit)
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

// dialTLS opens a TLS connection to a node for one protocol.
func (n *tlsNetwork) dialTLS(ctx context.Context, address, name, proto string) (*tls.Conn, error) {
	raw, err := n.opts.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, n.opts.Certs.ClientTLS(n.opts.Cluster, name, proto))
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("TLS with %s: %w", address, err)
	}
	return conn, nil
}

// Conn returns a connection to the peer API. Connections are kept until Close and shared.
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
		return nil, errClosed
	default:
	}
	c, err := grpc.NewClient("passthrough:///"+address, append([]grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(n.opts.Certs.ClientTLS(n.opts.Cluster, serverid.Name(id), protoGRPC))),
		grpc.WithContextDialer(n.opts.Dial),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, Jitter: .2, MaxDelay: time.Second},
			MinConnectTimeout: handshakeTimeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 2 * time.Second, Timeout: 2 * time.Second, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64 << 20)),
		grpc.WithChainUnaryInterceptor(nameUnary(n.local, id)), grpc.WithChainStreamInterceptor(nameStream(n.local, id)),
	}, n.opts.Calling...)...)
	if err != nil {
		return nil, fmt.Errorf("node address %q: %w", address, err)
	}
	n.conns[key] = c
	return c, nil
}

// Probe dials the peer port and closes the connection.
func (n *tlsNetwork) Probe(ctx context.Context, address string) error {
	conn, err := n.opts.Dial(ctx, address)
	if err == nil {
		_ = conn.Close()
	}
	return err
}

// Close closes all connections and waits for the network's goroutines.
func (n *tlsNetwork) Close() error {
	n.once.Do(func() {
		close(n.stop)
		_ = n.opts.Listener.Close()
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

// finishedTLS are the credentials of accepted connections whose TLS handshake is done already.
type finishedTLS struct {
	credentials.TransportCredentials
}

// ServerHandshake returns the result of the handshake that was done before.
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

// Info returns the protocol, TLS.
func (finishedTLS) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone returns f, which has no state.
func (f finishedTLS) Clone() credentials.TransportCredentials { return f }
