package cluster_test

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/test/testkit"

	"github.com/image-builder-ha/image-builder/cluster/pki"
)

// Test_Certs_RotateWithoutRestart replaces the CA and all certificates of running nodes in the
// order of the runbook: first the nodes trust both CAs, then they get certificates of the new CA,
// then they stop trusting the old one. A new node that has only the new CA can join; a certificate
// of the old CA is refused.
func Test_Certs_RotateWithoutRestart(t *testing.T) {
	g := three(t)
	put(t, g.leader().Node, 1)
	read := func(path string) []byte {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	at := time.Now().Add(-time.Hour)
	write := func(path string, raw []byte) {
		// Replace the file in one step and with another modification time, as operators do.
		if err := os.WriteFile(path+".new", raw, 0o600); err != nil {
			t.Fatal(err)
		}
		at = at.Add(time.Second)
		if err := os.Chtimes(path+".new", at, at); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	next := t.TempDir()
	caFile := filepath.Join(g.certs, pki.CAFile)
	oldCA := read(caFile)
	former := tlsOf(t, pki.CertFiles{Cert: filepath.Join(g.certs, "node-n0.pem"), Key: filepath.Join(g.certs, "node-n0-key.pem")})
	fresh := map[string]pki.CertFiles{}
	for _, name := range []string{"n0", "n1", "n2", "n3"} {
		files, err := pki.IssueCert(next, pki.CertIdentity{Cluster: "test", Role: pki.RoleNode, Name: name}, false)
		if err != nil {
			t.Fatal(err)
		}
		fresh[name] = files
	}
	newCA := read(fresh["n0"].CA)
	write(caFile, slices.Concat(oldCA, newCA))
	for name, files := range fresh {
		write(filepath.Join(g.certs, "node-"+name+"-key.pem"), read(files.Key))
		write(filepath.Join(g.certs, "node-"+name+".pem"), read(files.Cert))
	}
	if err := shake(g.get("n1").address, former); err != nil {
		t.Errorf("while both CAs are trusted, a node that has its former certificate is refused: %v", err)
	}
	write(caFile, newCA)
	for _, name := range []string{"n0", "n1", "n2"} {
		if err := shake(g.get(name).address, tlsOf(t, fresh["n3"])); err != nil {
			t.Errorf("%s refuses a certificate of the new CA: %v", name, err)
		}
		if err := shake(g.get(name).address, former); err == nil {
			t.Errorf("%s accepts a certificate of the former CA", name)
		}
	}
	m := g.start("n3")
	testkit.Eventually(t, time.Minute, "a node that has only the new CA joins and follows", func() bool { return len(m.sm.values()) == 1 })
	put(t, m.Node, 2)
}

func tlsOf(t *testing.T, files pki.CertFiles) *tls.Config {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{
		InsecureSkipVerify: true, NextProtos: []string{"h2"},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil },
	}
}

// shake connects to a peer port like gRPC and waits for the first byte: in TLS 1.3 a client learns
// only when it reads that the server refused its certificate.
func shake(address string, conf *tls.Config) error {
	conn, err := tls.Dial("tcp", address, conf)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	_, err = conn.Read(make([]byte, 1))
	return err
}
