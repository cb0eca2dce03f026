package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// Lifetimes of certificates.
const (
	caLife   = 10 * 365 * 24 * time.Hour
	certLife = 365 * 24 * time.Hour
)

// Names of the files of a CA.
const (
	CAFile    = "ca.pem"
	CAKeyFile = "ca-key.pem"
)

// IssueCert writes the files ROLE-NAME.pem and ROLE-NAME-key.pem in dir, a certificate for id and
// its key. They are signed by a CA in dir, which the first call creates. IssueCert keeps existing
// files unless renew is set; it never replaces the CA. It is for installations that have no other
// CA.
func IssueCert(dir string, id CertIdentity, renew bool) (CertFiles, error) {
	ca, caKey, err := openCA(dir, id.Cluster)
	if err != nil {
		return CertFiles{}, err
	}
	base := id.Role
	if id.Name != "" {
		base += "-" + id.Name
	}
	files := CertFiles{CA: filepath.Join(dir, CAFile), Cert: filepath.Join(dir, base+".pem"), Key: filepath.Join(dir, base+"-key.pem")}
	if _, err := os.Stat(files.Cert); err == nil && !renew {
		return files, nil
	}
	u, err := url.Parse(id.String())
	if err != nil {
		return files, fmt.Errorf("issue a certificate for %s: %w", id, err)
	}
	t := template(id.Role+" "+id.Name, certLife)
	t.URIs = []*url.URL{u}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return files, fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, ca, key.Public(), caKey)
	if err != nil {
		return files, fmt.Errorf("issue a certificate for %s: %w", id, err)
	}
	return files, writePair(files.Cert, files.Key, der, key)
}

func openCA(dir, cluster string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	cert, key := filepath.Join(dir, CAFile), filepath.Join(dir, CAKeyFile)
	if _, err := os.Stat(key); errors.Is(err, os.ErrNotExist) {
		if err := makeCA(dir, cert, key, cluster); err != nil {
			return nil, nil, err
		}
	}
	c, err := readPEM(cert)
	if err != nil {
		return nil, nil, err
	}
	k, err := readPEM(key)
	if err != nil {
		return nil, nil, err
	}
	ca, err := x509.ParseCertificate(c)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", cert, err)
	}
	priv, err := x509.ParseECPrivateKey(k)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", key, err)
	}
	return ca, priv, nil
}

func makeCA(dir, cert, key, cluster string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make a CA: %w", err)
	}
	t := template("CA of "+cluster, caLife)
	t.IsCA, t.BasicConstraintsValid, t.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, priv.Public(), priv)
	if err != nil {
		return fmt.Errorf("make a CA: %w", err)
	}
	return writePair(cert, key, der, priv)
}

func template(name string, life time.Duration) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)) // never fails
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name, Organization: []string{"image-builder"}},
		NotBefore: now.Add(-5 * time.Minute), NotAfter: now.Add(life),
	}
}

func writePair(cert, key string, der []byte, priv *ecdsa.PrivateKey) error {
	raw, err := x509.MarshalECPrivateKey(priv)
	if err != nil {
		return fmt.Errorf("encode a key: %w", err)
	}
	if err := os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}), 0o600); err != nil {
		return fmt.Errorf("write a key: %w", err)
	}
	if err := os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return fmt.Errorf("write a certificate: %w", err)
	}
	return nil
}

func readPEM(path string) ([]byte, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	b, _ := pem.Decode(raw)
	if b == nil {
		return nil, fmt.Errorf("%s holds no PEM block", path)
	}
	return b.Bytes, nil
}
