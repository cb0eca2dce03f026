package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

// Roles of certificate holders.
const (
	RoleNode     = "node"
	RoleOperator = "operator"
)

// CertIdentity identifies the holder of a certificate. It is the certificate's URI name in the form
// of SPIFFE: spiffe://CLUSTER/ROLE/NAME. A node's certificate without NAME is valid for every node
// of the cluster.
type CertIdentity struct {
	Cluster, Role, Name string
}

// String returns the URI name.
func (i CertIdentity) String() string {
	s := "spiffe://" + i.Cluster + "/" + i.Role
	if i.Name != "" {
		s += "/" + i.Name
	}
	return s
}

// IdentityOf returns the identity in the first SPIFFE URI of a certificate.
func IdentityOf(cert *x509.Certificate) (CertIdentity, error) {
	for _, u := range cert.URIs {
		if u.Scheme != "spiffe" {
			continue
		}
		role, name, _ := strings.Cut(strings.Trim(u.Path, "/"), "/")
		return CertIdentity{Cluster: u.Host, Role: role, Name: name}, nil
	}
	return CertIdentity{}, fmt.Errorf("the certificate of %q has no URI name spiffe://CLUSTER/ROLE/NAME: issue one with 'image-builder cluster certs', or add the name", cert.Subject.CommonName)
}

// CertFiles are the paths of three PEM files.
type CertFiles struct {
	CA, Cert, Key string
}

// Certs holds a node's certificate and its CA. Each handshake checks whether the files have changed
// and then reads them again. If they cannot be read, the former certificate and CA stay in use.
type Certs struct {
	files CertFiles
	log   *slog.Logger

	mu    sync.Mutex
	seen  [3]time.Time
	cert  *tls.Certificate
	roots *x509.CertPool
}

// LoadCerts reads the files and returns an error if one cannot be read.
func LoadCerts(files CertFiles, log *slog.Logger) (*Certs, error) {
	c := &Certs{files: files, log: log}
	if err := c.load(); err != nil {
		return nil, err
	}
	return c, nil
}

// Identity returns the identity in the current certificate.
func (c *Certs) Identity() (CertIdentity, error) {
	cert, _ := c.current()
	return IdentityOf(cert.Leaf)
}

func (c *Certs) current() (*tls.Certificate, *x509.CertPool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.times() != c.seen {
		if err := c.load(); err != nil {
			c.log.Error("cannot read the changed certificates; the former ones stay in use", "err", err)
		}
	}
	return c.cert, c.roots
}

func (c *Certs) times() (t [3]time.Time) {
	for i, f := range []string{c.files.CA, c.files.Cert, c.files.Key} {
		if s, err := os.Stat(f); err == nil {
			t[i] = s.ModTime()
		}
	}
	return t
}

func (c *Certs) load() error {
	c.seen = c.times()
	pair, err := tls.LoadX509KeyPair(c.files.Cert, c.files.Key)
	if err != nil {
		return fmt.Errorf("read certificate and key: %w", err)
	}
	pem, err := os.ReadFile(c.files.CA)
	if err != nil {
		return fmt.Errorf("read the CA: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s holds no certificate", c.files.CA)
	}
	if _, err := IdentityOf(pair.Leaf); err != nil {
		return err
	}
	c.cert, c.roots = &pair, roots
	return nil
}

// ServerTLS returns the TLS configuration of the peer port. A caller must present a certificate of the
// same cluster.
func (c *Certs) ServerTLS(cluster string, protos ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: protos,
		ClientAuth: tls.RequireAnyClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			cert, _ := c.current()
			return cert, nil
		},
		VerifyConnection: func(s tls.ConnectionState) error {
			_, err := c.verify(s, x509.ExtKeyUsageClientAuth, cluster, "")
			return err
		},
	}
}

// ClientTLS returns the TLS configuration for calls to the node with the given name, or to any node of
// the cluster if name is empty. Nodes are identified by their names and not by their addresses.
func (c *Certs) ClientTLS(cluster, name string, protos ...string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         protos,
		InsecureSkipVerify: true, // VerifyConnection checks the identity instead
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, _ := c.current()
			return cert, nil
		},
		VerifyConnection: func(s tls.ConnectionState) error {
			_, err := c.verify(s, x509.ExtKeyUsageServerAuth, cluster, name)
			return err
		},
	}
}

// verify checks the certificate of the other side and returns its identity.
func (c *Certs) verify(s tls.ConnectionState, usage x509.ExtKeyUsage, cluster, name string) (CertIdentity, error) {
	if len(s.PeerCertificates) == 0 {
		return CertIdentity{}, errors.New("the other side shows no certificate")
	}
	_, roots := c.current()
	between := x509.NewCertPool()
	for _, cert := range s.PeerCertificates[1:] {
		between.AddCert(cert)
	}
	leaf := s.PeerCertificates[0]
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
		return CertIdentity{}, fmt.Errorf("refused the certificate of %q: %w", leaf.Subject.CommonName, err)
	}
	id, err := IdentityOf(leaf)
	switch {
	case err != nil:
		return id, err
	case id.Cluster != cluster:
		return id, fmt.Errorf("refused %s: it is of cluster %q, this is cluster %q", id, id.Cluster, cluster)
	case id.Role != RoleNode:
		return id, fmt.Errorf("refused %s: the peer port is for nodes, its role is %q", id, id.Role)
	case name != "" && id.Name != "" && id.Name != name:
		return id, fmt.Errorf("refused %s: node %q was asked for", id, name)
	}
	return id, nil
}
