package otlp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"

	"google.golang.org/grpc/credentials"
)

// TLS names the PEM files of an encrypted connection. Cert and Key are optional. The files are read
// for each handshake, so that they can be renewed.
type TLS struct{ CA, Cert, Key string }

// credentials reads the files once, to detect errors of the configuration, and returns credentials
// that read them again for each handshake.
func (t TLS) credentials() (credentials.TransportCredentials, error) {
	conf, err := t.config()
	if err != nil {
		return nil, err
	}
	return reloading{credentials.NewTLS(conf), t}, nil
}

// config reads the files.
func (t TLS) config() (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool()}
	ca, err := os.ReadFile(t.CA)
	if err != nil {
		return nil, fmt.Errorf("read the CA of the collector: %w", err)
	}
	if !conf.RootCAs.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("read the CA of the collector: %s contains no PEM certificate", t.CA)
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("read the certificate for the collector: %w", err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}

// reloading are credentials that read the files for each handshake.
type reloading struct {
	credentials.TransportCredentials
	files TLS
}

// ClientHandshake authenticates with the current contents of the files.
func (r reloading) ClientHandshake(ctx context.Context, authority string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conf, err := r.files.config()
	if err != nil {
		return nil, nil, err
	}
	return credentials.NewTLS(conf).ClientHandshake(ctx, authority, c)
}

// Clone returns a copy.
func (r reloading) Clone() credentials.TransportCredentials { return r }
