package cluster_test

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_Certs_RotateWithoutRestart replaces the CA and all certificates under
// running nodes, in the order of the runbook: both CAs are trusted, then
// certificates are of the new one, then the old one is trusted no more. A node
// that knows the new ones only joins; one of the old CA is refused.
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
		// At once and under another time, as those who rotate do.
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
	caFile := filepath.Join(g.certs, cluster.CAFile)
	oldCA := read(caFile)
	former := tlsOf(t, cluster.CertFiles{Cert: filepath.Join(g.certs, "node-n0.pem"), Key: filepath.Join(g.certs, "node-n0-key.pem")})
	fresh := map[string]cluster.CertFiles{}
	for _, name := range []string{"n0", "n1", "n2", "n3"} {
		files, err := cluster.IssueCert(next, cluster.CertIdentity{Cluster: "test", Role: cluster.RoleNode, Name: name}, false)
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
			t.Errorf("%s lets a certificate of the former CA in", name)
		}
	}
	m := g.start("n3")
	testkit.Eventually(t, time.Minute, "a node that knows the new CA only joins and follows", func() bool { return len(m.sm.values()) == 1 })
	put(t, m.Node, 2)
}

func tlsOf(t *testing.T, files cluster.CertFiles) *tls.Config {
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

// shake connects to a peer port as gRPC does and waits for its first word: in
// TLS 1.3 a client hears of its refusal when it reads.
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
