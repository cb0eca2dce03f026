package operator

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/cluster/pki"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/docs"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// newServerCert makes a self-signed certificate for 127.0.0.1.
func newServerCert(t *testing.T) (cert, key string) {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "127.0.0.1"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, priv.Public(), priv)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "crt.pem"), filepath.Join(dir, "key.pem")
	for path, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "EC PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// clientTLS returns the configuration of a client that presents a certificate, or none if files is
// nil.
func clientTLS(t *testing.T, files *pki.CertFiles) *tls.Config {
	t.Helper()
	conf := &tls.Config{InsecureSkipVerify: true} // the test is about the certificate of the client
	if files != nil {
		pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
		if err != nil {
			t.Fatal(err)
		}
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	return conf
}

// Test_Identity_Roles presents certificates of all roles at the ports of nodes. An operator's
// certificate gives access to the cluster API and to pprof at the public ports, but not at the peer
// port. A node's certificate gives access to the peer port only.
func Test_Identity_Roles(t *testing.T) {
	cert, key := newServerCert(t)
	dir := t.TempDir()
	ca, err := pki.IssueCert(dir, pki.CertIdentity{Cluster: harness.ClusterName, Role: pki.RoleOperator, Name: "me"}, false)
	if err != nil {
		t.Fatal(err)
	}
	c := harness.NewCluster(t, 1, "127.0.0.1:1", harness.Config{"log": map[string]any{"level": "info"}})
	n := c.Nodes[0]
	// The API and the peer port trust the same CA, so only the role decides.
	node := c.Certs(pki.CertIdentity{Cluster: harness.ClusterName, Role: pki.RoleNode, Name: "n0"})
	operator := c.Certs(pki.CertIdentity{Cluster: harness.ClusterName, Role: pki.RoleOperator, Name: "me"})
	elsewhere := c.Certs(pki.CertIdentity{Cluster: "elsewhere", Role: pki.RoleOperator, Name: "you"})
	n.Override(map[string]any{"server": map[string]any{"services": map[string]any{"grpc": map[string]any{
		"tls": map[string]any{"caPath": node.CA, "certPath": cert, "keyPath": key},
	}}}})
	n.Run()

	members := func(conf *tls.Config) error {
		conn, err := grpc.NewClient(n.GRPC, grpc.WithTransportCredentials(credentials.NewTLS(conf)))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		res, err := imagebuilderv1.NewClusterClient(conn).Members(ctx, &imagebuilderv1.MembersRequest{})
		if err == nil && len(res.Members) != 1 {
			t.Errorf("%d members", len(res.Members))
		}
		return err
	}
	profile := func(conf *tls.Config) (int, error) {
		h := &http.Client{Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}, Timeout: 20 * time.Second}
		res, err := h.Get("https://" + n.Pprof + "/debug/pprof/goroutine?debug=1")
		if err != nil {
			return 0, err
		}
		defer res.Body.Close()
		return res.StatusCode, nil
	}
	for _, x := range []struct {
		who    string
		files  *pki.CertFiles
		method codes.Code // of a method for operators
		pprof  int        // status of a profile; 0: the handshake fails
	}{
		{"an operator", &operator, codes.OK, http.StatusOK},
		{"a node", &node, codes.PermissionDenied, http.StatusForbidden},
		{"nobody", nil, codes.PermissionDenied, http.StatusForbidden},
		{"an operator of another cluster", &elsewhere, codes.PermissionDenied, http.StatusForbidden},
		{"an operator of another CA", &ca, codes.Unavailable, 0},
	} {
		if err := members(clientTLS(t, x.files)); status.Code(err) != x.method {
			t.Errorf("the cluster API, called by %s: %v, want %s", x.who, err, x.method)
		} else if x.method == codes.PermissionDenied && !strings.Contains(err.Error(), "certificate of the operator role") {
			t.Errorf("the error for %s does not name the missing certificate: %v", x.who, err)
		}
		if code, err := profile(clientTLS(t, x.files)); code != x.pprof {
			t.Errorf("a profile, requested by %s: %d %v, want %d", x.who, code, err, x.pprof)
		}
	}
	// By the command of the runbook. With the clock of tools/test-dates.sh the certificate is not valid for
	// curl, which keeps the true date.
	if os.Getenv("TEST_CLOCK_OFFSET") != "" {
		t.Log("curl is not run: the clock is moved")
	} else if p := docs.Run(t, "", "docs/runbooks.md", "curl --cacert", "operator-me.pem", operator.Cert, "operator-me-key.pem", operator.Key, "ca.pem", cert,
		"ib-0.example.com:6060", n.Pprof, "debug/pprof/profile", "debug/pprof/profile?seconds=1"); !isProfile(p) {
		t.Errorf("no profile, but %.200q", p)
	}
	out, errOut, code := harness.CLI(t, n.GRPC, "cluster", "members", "--ca", cert, "--cert", operator.Cert, "--key", operator.Key)
	if code != 0 || !strings.Contains(out, "n0") {
		t.Errorf("cluster members with an operator's certificate: %d %s %s", code, out, errOut)
	}
	out, errOut, code = harness.CLI(t, n.GRPC, "cluster", "members", "--ca", cert, "--cert", node.Cert, "--key", node.Key)
	if code != 2 || !strings.Contains(errOut, "operator role") {
		t.Errorf("cluster members with a node's certificate: %d %s %s", code, out, errOut)
	}

	// The peer port.
	peer := func(files *pki.CertFiles) error {
		conf := clientTLS(t, files)
		conf.NextProtos = []string{"h2"}
		conn, err := tls.Dial("tcp", n.Peer, conf)
		if err != nil {
			return err
		}
		defer conn.Close()
		// In TLS 1.3 the client sees a refusal when it reads. A gRPC server writes first: it sends
		// its settings.
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, err = conn.Read(make([]byte, 1))
		return err
	}
	if err := peer(&node); err != nil {
		t.Errorf("a node's certificate at the peer port: %v", err)
	}
	for who, files := range map[string]*pki.CertFiles{"an operator's": &operator, "no": nil, "another CA's": &ca, "another cluster's": &elsewhere} {
		if err := peer(files); err == nil {
			t.Errorf("%s certificate opens the peer port", who)
		}
	}
	testkit.Eventually(t, 20*time.Second, "the node says whom it refused at the peer port", func() bool {
		return strings.Contains(n.Log(), "the peer port is for nodes, its role is")
	})
}

// isProfile reports whether a response is a profile, which is compressed by gzip.
func isProfile(raw []byte) bool { return strings.HasPrefix(string(raw), "\x1f\x8b") }

// Test_Identity_OperatorSocket requests profiles and calls the API on the same unix socket, while
// idle clients are connected to it.
func Test_Identity_OperatorSocket(t *testing.T) {
	n := harness.Start(t, "127.0.0.1:1", harness.Config{"pprofAddress": nil})
	path := filepath.Join(n.Dir, "op.sock")
	for range 3 {
		silent, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
	}
	h := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
		DisableKeepAlives: true,
	}}
	res, err := h.Get("http://node/debug/pprof/goroutine?debug=1")
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("a profile on the socket: %v %v", res, err)
	}
	res.Body.Close()
	// By the command of the runbook.
	dir := t.TempDir()
	heap := docs.Run(t, "", "docs/runbooks.md", "curl --unix-socket", "/var/lib/image-builder/operator.sock", path)
	if !isProfile(heap) {
		t.Errorf("no profile, but %.200q", heap)
	}
	if err := os.WriteFile(filepath.Join(dir, "heap"), heap, 0o600); err != nil {
		t.Fatal(err)
	}
	if top := docs.Run(t, dir, "docs/runbooks.md", "go tool pprof"); !strings.Contains(string(top), "Type: inuse_space") {
		t.Errorf("what takes memory: %s", top)
	}
	if _, err := n.Members(t.Context(), false); err != nil {
		t.Errorf("the API on the socket: %v", err)
	}
	if s, err := os.Stat(path); err != nil || s.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v %v", s.Mode(), err)
	}
	// The plain port for profiles is closed.
	if _, code := n.Get("http://" + n.Pprof + "/debug/pprof/"); code != 0 {
		t.Errorf("pprof returns %d on loopback although it is off", code)
	}
	if st := n.Stop(); st.ExitCode() != 0 {
		t.Errorf("after SIGTERM with silent clients: %s", st)
	}
}
