package node

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/cluster/pki"
	"github.com/image-builder-ha/image-builder/config"
)

// Test_ServerTLS_ReadsChangedFiles replaces certificate, key and client CA of an open port. The
// next handshake uses the new files. Files that cannot be read change nothing.
func Test_ServerTLS_ReadsChangedFiles(t *testing.T) {
	old, next, served := t.TempDir(), t.TempDir(), t.TempDir()
	operator := pki.CertIdentity{Cluster: "c", Role: pki.RoleOperator, Name: "me"}
	issue := func(dir string) pki.CertFiles {
		files, err := pki.IssueCert(dir, operator, false)
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	at := time.Now().Add(-time.Hour)
	put := func(name string, content []byte) {
		path := filepath.Join(served, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		at = at.Add(time.Second) // file systems may store coarse times
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	replace := func(from pki.CertFiles) {
		for name, path := range map[string]string{"ca": from.CA, "crt": from.Cert, "key": from.Key} {
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			put(name, raw)
		}
	}
	replace(issue(old))
	var log bytes.Buffer
	conf, err := serverTLS("the.port", config.ServerTLS{
		CAPath: filepath.Join(served, "ca"), CertPath: filepath.Join(served, "crt"), KeyPath: filepath.Join(served, "key"), ClientAuth: "require",
	}, slog.New(slog.NewTextHandler(&log, nil)), "h2")
	if err != nil {
		t.Fatal(err)
	}
	// handshake returns the certificate of the server, and the error of the handshake on the
	// server.
	handshake := func(files pki.CertFiles) (*x509.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
		if err != nil {
			t.Fatal(err)
		}
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		server := make(chan error, 1)
		go func() { server <- tls.Server(a, conf).HandshakeContext(t.Context()) }()
		client := tls.Client(b, &tls.Config{InsecureSkipVerify: true, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &pair, nil // whatever CA the server names
		}, NextProtos: []string{"h2"}})
		if err := client.HandshakeContext(t.Context()); err != nil {
			return nil, err
		}
		go func() { _, _ = client.Read(make([]byte, 1)) }() // receives the alert of a server that refuses
		return client.ConnectionState().PeerCertificates[0], <-server
	}
	same := func(what string, cert *x509.Certificate, files pki.CertFiles) {
		t.Helper()
		pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
		if err != nil {
			t.Fatal(err)
		}
		if cert == nil || !cert.Equal(pair.Leaf) {
			t.Errorf("%s: the server has another certificate", what)
		}
	}
	expect := func(what string, good, bad pki.CertFiles) {
		t.Helper()
		cert, err := handshake(good)
		if err != nil {
			t.Errorf("%s: a client of the present CA: %v", what, err)
		}
		same(what, cert, good)
		if _, err := handshake(bad); err == nil {
			t.Errorf("%s: a client of another CA is admitted", what)
		}
	}
	expect("at the start", issue(old), issue(next))
	replace(issue(next))
	expect("after the change", issue(next), issue(old))
	put("ca", []byte("nonsense"))
	expect("with a CA that cannot be read", issue(next), issue(old))
	if !strings.Contains(log.String(), "the.port.caPath") || !strings.Contains(log.String(), "former ones stay in use") {
		t.Errorf("the log does not name the error: %s", log.String())
	}
	if n := strings.Count(log.String(), "former ones stay in use"); n != 1 {
		t.Errorf("the error is logged %d times", n)
	}
	replace(issue(old))
	expect("with the former files again", issue(old), issue(next))
	replace(issue(next))
	put("ca", []byte("nonsense"))
	expect("with another CA that cannot be read", issue(old), issue(next))
	ca, err := os.ReadFile(issue(next).CA)
	if err != nil {
		t.Fatal(err)
	}
	at = at.Add(-time.Second)
	put("ca", ca) // with an unchanged time, as after chmod
	expect("with a readable CA again", issue(next), issue(old))
}
