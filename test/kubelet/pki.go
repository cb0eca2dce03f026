//go:build kubernetes

package kubelet

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// identity is a client of the API.
type identity struct{ file, user, group string }

// identities are the clients with a certificate and a kubeconfig file.
var identities = []identity{
	{"admin", "admin", "system:masters"},
	{"controller-manager", "system:kube-controller-manager", ""},
	{"scheduler", "system:kube-scheduler", ""},
	{"kubelet", "system:node:" + nodeName, "system:nodes"},
	{"apiserver-kubelet", "kube-apiserver", "system:masters"},
}

// authority signs certificates into a folder.
type authority struct {
	dir  string
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// makePKI writes all certificates and keys of a cluster.
func makePKI(dir string) error {
	a := &authority{dir: dir}
	var err error
	if a.key, a.cert, err = a.issue("ca", &x509.Certificate{
		Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}); err != nil {
		return err
	}
	server := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	if _, _, err = a.issue("apiserver", &x509.Certificate{
		Subject: pkix.Name{CommonName: "kube-apiserver"}, DNSNames: []string{"localhost", "kubernetes.default.svc"}, ExtKeyUsage: server,
		IPAddresses: []net.IP{net.ParseIP("127.0.0.1"), net.ParseIP(serviceIP), net.ParseIP(Address)},
	}); err != nil {
		return err
	}
	if _, _, err = a.issue("kubelet-server", &x509.Certificate{
		Subject: pkix.Name{CommonName: nodeName}, DNSNames: []string{nodeName}, ExtKeyUsage: server,
		IPAddresses: []net.IP{net.ParseIP("127.0.0.1"), net.ParseIP(Address)},
	}); err != nil {
		return err
	}
	for _, id := range identities {
		name := pkix.Name{CommonName: id.user}
		if id.group != "" {
			name.Organization = []string{id.group}
		}
		if _, _, err = a.issue(id.file, &x509.Certificate{Subject: name, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
			return err
		}
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return fmt.Errorf("make the key of service accounts: %w", err)
	}
	return a.write("sa.key", "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key))
}

// issue signs a certificate and writes it with its key. The first one is the certificate of the
// authority itself.
func (a *authority) issue(name string, c *x509.Certificate) (*ecdsa.PrivateKey, *x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make the key of %s: %w", name, err)
	}
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	signer, parent := a.key, a.cert
	if signer == nil {
		signer, parent = key, c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		return nil, nil, fmt.Errorf("sign the certificate of %s: %w", name, err)
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encode the key of %s: %w", name, err)
	}
	if err := a.write(name+".crt", "CERTIFICATE", der); err != nil {
		return nil, nil, err
	}
	return key, c, a.write(name+".key", "EC PRIVATE KEY", raw)
}

func (a *authority) write(name, kind string, der []byte) error {
	return os.WriteFile(filepath.Join(a.dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
