//go:build kubernetes

package kubernetes_test

import (
	"bytes"
	"context"
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
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	client "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/image-builder-ha/image-builder/test/testkit"
)

// api is a real kube-apiserver with a real etcd.
type api struct {
	t      *testing.T
	dir    string
	port   int
	etcd   string
	server *exec.Cmd
	log    *lockedBuffer
	config *rest.Config
	client client.Interface
}

func startAPI(t *testing.T) *api {
	t.Helper()
	a := &api{t: t, dir: t.TempDir(), port: testkit.FreePort(t), log: &lockedBuffer{}}
	a.pki()
	etcd, peer := testkit.FreePort(t), testkit.FreePort(t)
	a.etcd = fmt.Sprintf("http://127.0.0.1:%d", etcd)
	peers := fmt.Sprintf("http://127.0.0.1:%d", peer)
	cmd := a.command("etcd", "--data-dir", filepath.Join(a.dir, "etcd"), "--unsafe-no-fsync", "--listen-client-urls", a.etcd, "--advertise-client-urls", a.etcd,
		"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", "default="+peers)
	t.Cleanup(func() { a.kill(cmd) })
	a.startServer()
	t.Cleanup(a.stopServer)
	a.config = &rest.Config{Host: fmt.Sprintf("https://127.0.0.1:%d", a.port), QPS: 500, Burst: 500, TLSClientConfig: rest.TLSClientConfig{
		CAFile: a.file("ca.crt"), CertFile: a.file("admin.crt"), KeyFile: a.file("admin.key"),
	}}
	var err error
	if a.client, err = client.NewForConfig(a.config); err != nil {
		t.Fatal(err)
	}
	a.ready()
	// The controller manager, which does not run here, would create these.
	if _, err := a.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.client.CoreV1().ServiceAccounts(namespace).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return a
}

// startServer starts the apiserver, also again after stopServer.
func (a *api) startServer() {
	a.t.Helper()
	a.server = a.command("kube-apiserver", "--etcd-servers", a.etcd, "--secure-port", strconv.Itoa(a.port), "--bind-address=127.0.0.1",
		"--endpoint-reconciler-type=none", "--tls-cert-file", a.file("server.crt"), "--tls-private-key-file", a.file("server.key"), "--client-ca-file", a.file("ca.crt"),
		"--service-account-key-file", a.file("sa.key"), "--service-account-signing-key-file", a.file("sa.key"), "--service-account-issuer=https://kubernetes.default.svc",
		"--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24", "--allow-privileged=true")
}

func (a *api) stopServer() { a.kill(a.server) }

func (a *api) ready() {
	a.t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		ctx, cancel := context.WithTimeout(a.t.Context(), 5*time.Second)
		_, err := a.client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			a.t.Fatalf("the apiserver is not ready: %v\n%s", err, a.log.tail())
		}
		<-tick.C
	}
}

// command returns a program of test/kubernetes/bin or of this machine.
func (a *api) command(name string, args ...string) *exec.Cmd {
	a.t.Helper()
	path, err := filepath.Abs(filepath.Join("../../test/kubernetes/bin", name))
	if err == nil {
		if _, err = os.Stat(path); err != nil {
			path, err = exec.LookPath(name)
		}
	}
	if err != nil {
		a.t.Fatalf("these tests need %s: run test/kubernetes/build.sh and apt-get install etcd-server: %v", name, err)
	}
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = a.log, a.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		a.t.Fatalf("start %s: %v", name, err)
	}
	return cmd
}

func (a *api) kill(cmd *exec.Cmd) {
	_ = cmd.Process.Kill() // it may have ended already
	_ = cmd.Wait()
}

func (a *api) file(name string) string { return filepath.Join(a.dir, name) }

// pki writes the certificates.
func (a *api) pki() {
	a.t.Helper()
	caKey, ca := a.certificate("ca", &x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	a.certificate("server", &x509.Certificate{
		Subject: pkix.Name{CommonName: "kube-apiserver"}, DNSNames: []string{"localhost"},
		IPAddresses: []net.IP{net.ParseIP("127.0.0.1"), net.ParseIP("10.0.0.1")}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, caKey, ca)
	a.certificate("admin", &x509.Certificate{
		Subject: pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, caKey, ca)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		a.t.Fatal(err)
	}
	a.pem("sa.key", "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key))
}

func (a *api) certificate(name string, c *x509.Certificate, caKey *ecdsa.PrivateKey, ca *x509.Certificate) (*ecdsa.PrivateKey, *x509.Certificate) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	if ca == nil {
		caKey, ca = key, c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, ca, key.Public(), caKey)
	if err != nil {
		a.t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.pem(name+".crt", "CERTIFICATE", der)
	a.pem(name+".key", "EC PRIVATE KEY", raw)
	return key, c
}

func (a *api) pem(name, kind string, der []byte) {
	a.t.Helper()
	if err := os.WriteFile(a.file(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// lockedBuffer is a buffer for the logs of several processes.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.b.Bytes()
	return string(b[max(0, len(b)-4000):])
}
