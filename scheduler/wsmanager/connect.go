package wsmanager

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// maxMessage limits the responses of ws-manager, in bytes: a list of all build workspaces may
// exceed the 4 MiB that gRPC allows by default.
const maxMessage = 64 << 20

// dial prepares the connection, which gRPC opens at the first call and again after every loss.
func dial(o Options, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	creds := insecure.NewCredentials()
	if o.TLS != nil {
		t := reloading{files: *o.TLS}
		if t.files.ServerName == "" {
			t.files.ServerName = "ws-manager"
		}
		if _, err := t.config(); err != nil { // fail early on a configuration error
			return nil, err
		}
		creds = t
		opts = append(opts, grpc.WithAuthority(t.files.ServerName))
	}
	return grpc.NewClient(o.Address, append(opts,
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           grpcbackoff.Config{BaseDelay: o.MinBackoff, Multiplier: 1.6, Jitter: 0.2, MaxDelay: o.MaxBackoff},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
	)...)
}

// reloading is mutual TLS that reads its files for each handshake.
type reloading struct{ files TLS }

var _ credentials.TransportCredentials = reloading{}

// config reads the files.
func (t reloading) config() (*tls.Config, error) {
	ca, err := os.ReadFile(t.files.CA)
	if err != nil {
		return nil, fmt.Errorf("wsmanager: read wsman.tls.ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("wsmanager: wsman.tls.ca %s holds no certificate in PEM", t.files.CA)
	}
	cert, err := tls.LoadX509KeyPair(t.files.Cert, t.files.Key)
	if err != nil {
		return nil, fmt.Errorf("wsmanager: read wsman.tls.crt and key: %w", err)
	}
	return &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}, ServerName: t.files.ServerName, MinVersion: tls.VersionTLS12}, nil
}

// ClientHandshake authenticates with the current content of the files.
func (t reloading) ClientHandshake(ctx context.Context, authority string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	cfg, err := t.config()
	if err != nil {
		return nil, nil, err
	}
	return credentials.NewTLS(cfg).ClientHandshake(ctx, authority, c)
}

// ServerHandshake returns an error: these are credentials of a client.
func (t reloading) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("wsmanager: not a server")
}

// Info describes the protocol.
func (t reloading) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone returns t, which is immutable.
func (t reloading) Clone() credentials.TransportCredentials { return t }

// OverrideServerName is deprecated in grpc and has no effect here.
func (t reloading) OverrideServerName(string) error { return nil }
