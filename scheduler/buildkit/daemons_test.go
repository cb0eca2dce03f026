package buildkit_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/scheduler/buildkit"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// relay is a relay between a client and a daemon, which can be frozen.
type relay struct {
	net.Listener
	frozen chan struct{}
	group  sync.WaitGroup
	mu     sync.Mutex
	conns  []net.Conn
}

// newRelay relays the connections that l accepts to the socket of a daemon.
func newRelay(t *testing.T, l net.Listener, daemon *buildkit.Daemon) *relay {
	t.Helper()
	r := &relay{Listener: l, frozen: make(chan struct{})}
	r.group.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			d, err := net.Dial("unix", strings.TrimPrefix(daemon.Addr(), "unix://"))
			if err != nil {
				_ = c.Close()
				continue
			}
			r.mu.Lock()
			r.conns = append(r.conns, c, d)
			r.mu.Unlock()
			r.group.Go(func() { r.pipe(c, d) })
			r.group.Go(func() { r.pipe(d, c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		r.mu.Lock()
		for _, c := range r.conns {
			_ = c.Close()
		}
		r.mu.Unlock()
		r.group.Wait()
	})
	return r
}

// pipe copies until one side ends. A frozen relay discards everything.
func (r *relay) pipe(to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		select {
		case <-r.frozen:
			if err == nil {
				continue
			}
			return
		default:
		}
		if err == nil {
			_, err = to.Write(buf[:n])
		}
		if err != nil {
			_ = to.Close()
			return
		}
	}
}

func Test_Run_DaemonBehindMutualTLS(t *testing.T) {
	dir := t.TempDir()
	writeCertificates(t, dir)
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pem, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil || !pool.AppendCertsFromPEM(pem) {
		t.Fatal("no CA", err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"h2"},
	})
	if err != nil {
		t.Fatal(err)
	}
	newRelay(t, l, sharedDaemon(t))
	with := func(o *buildkit.Options) {
		o.Daemons = []buildkit.Address{{URL: "tcp://" + l.Addr().String(), TLS: &buildkit.TLS{
			CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem"), ServerName: "buildkit.test",
		}}}
	}
	r := newRig(t, with)
	r.mustRun(t, r.upload(t, map[string]string{"Dockerfile": "FROM " + r.base + "\nRUN true\n"}))

	plain := newRig(t, func(o *buildkit.Options) {
		o.Daemons, o.DaemonWait = []buildkit.Address{{URL: "tcp://" + l.Addr().String()}}, time.Second
	})
	plain.mustFail(t, plain.upload(t, map[string]string{"Dockerfile": "FROM " + plain.base + "\n"}), infrastructure, "no BuildKit daemon answers")
}

// writeCertificates writes a CA, and one certificate for both sides.
func writeCertificates(t *testing.T, dir string) {
	t.Helper()
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	write := func(name, kind string, der []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	caKey, leafKey := key(), key()
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "leaf"}, NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"buildkit.test"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for name, c := range map[string]struct {
		template, parent *x509.Certificate
		public           *ecdsa.PublicKey
	}{"ca.pem": {ca, ca, &caKey.PublicKey}, "cert.pem": {leaf, ca, &leafKey.PublicKey}} {
		der, err := x509.CreateCertificate(rand.Reader, c.template, c.parent, c.public, caKey)
		if err != nil {
			t.Fatal(err)
		}
		write(name, "CERTIFICATE", der)
	}
	der, err := x509.MarshalECPrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	write("key.pem", "EC PRIVATE KEY", der)
}

func Test_Run_AnotherDaemonTakesTheWorkOfOneThatIsGone(t *testing.T) {
	r := newRig(t, func(o *buildkit.Options) {
		for _, name := range []string{"a", "b", "c"} {
			o.Daemons = append(o.Daemons, buildkit.Address{URL: "unix://" + filepath.Join(t.TempDir(), name)})
		}
	})
	for _, note := range []string{"one", "two", "three"} {
		r.mustRun(t, r.upload(t, map[string]string{"Dockerfile": "FROM " + r.base + "\n# " + note + "\n"}))
	}
}

// Test_Run_WaitsWhileNoDaemonAnswers starts a build while there is no daemon. The build shows that
// it waits, and ends at its deadline or by a cancel.
func Test_Run_WaitsWhileNoDaemonAnswers(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *buildkit.Options) {
		o.Daemons = []buildkit.Address{{URL: "unix://" + filepath.Join(t.TempDir(), "s")}}
	})
	w := r.upload(t, map[string]string{"Dockerfile": "FROM " + r.base + "\n"})
	w.Deadline = time.Now().Add(2 * time.Second)
	r.mustFail(t, w, timeout, "before its deadline", "no BuildKit daemon answers", r.opts.Daemons[0].URL)

	w = r.upload(t, map[string]string{"Dockerfile": "FROM " + r.base + "\n"})
	s := &sink{}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := r.Run(ctx, w, s)
		done <- err
	}()
	testkit.Eventually(t, 20*time.Second, "the build shows that it waits", func() bool {
		return s.step("wait for a BuildKit daemon") != nil && strings.Contains(s.text(), "no BuildKit daemon answers")
	})
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled wait: %v", err)
	}
}

// Test_Run_SilentDaemonIsInfrastructure uses a daemon that stops responding in the middle of a step
// and keeps its connections open.
func Test_Run_SilentDaemonIsInfrastructure(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	between := newRelay(t, l, sharedDaemon(t))
	r := newRig(t, func(o *buildkit.Options) { o.Daemons = []buildkit.Address{{URL: "unix://" + l.Addr().String()}} })
	buildkit.SetWatch(r.Runtime, 500*time.Millisecond)
	dockerfile, mark := sleeper(r)
	done := running(t, t.Context(), r, r.upload(t, map[string]string{"Dockerfile": dockerfile}), mark)
	close(between.frozen)
	select {
	case err := <-done:
		var f *workload.Failure
		if !errors.As(err, &f) || f.Blame != infrastructure || !strings.Contains(f.Message, "does not answer any more") {
			t.Errorf("run: %v", err)
		}
	case <-time.After(40 * time.Second):
		t.Fatal("the solve hangs")
	}
	between.mu.Lock()
	for _, c := range between.conns {
		_ = c.Close()
	}
	between.mu.Unlock()
	testkit.Eventually(t, 5*time.Second, "the daemon has ended the step", func() bool { return len(processes(t, mark)) == 0 })
}

// Test_Run_CancelDuringPullAndPush cancels while the daemon waits for the registry.
func Test_Run_CancelDuringPullAndPush(t *testing.T) {
	r := newRig(t)
	proxy := registrytest.NewProxy(t, r.reg)
	for name, hold := range map[string]registrytest.Matcher{
		"pull": registrytest.Method(http.MethodGet, registrytest.Blobs), "push": registrytest.Uploads,
	} {
		t.Run(name, func(t *testing.T) {
			// Use another image each time: an image that has been pulled is not pulled again.
			r.reg.Push(t, "library/"+name+":1", registrytest.RandomImage(t, 1, 1<<20))
			proxy.Heal()
			release := proxy.Hold(hold)
			defer release()
			w := r.upload(t, map[string]string{"Dockerfile": "FROM " + proxy.Addr + "/library/" + name + ":1\nCOPY Dockerfile /" + name + "\n"})
			w.BaseRef = proxy.Addr + "/bases:ref"
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			s := &sink{}
			done := make(chan error, 1)
			go func() {
				_, err := r.Run(ctx, w, s)
				done <- err
			}()
			testkit.Eventually(t, 20*time.Second, "the registry is asked", func() bool { return proxy.Count(hold) > 0 })
			begin := time.Now()
			cancel()
			err := <-done
			if took := time.Since(begin); !errors.Is(err, context.Canceled) || took > time.Second {
				t.Errorf("run: %v after %v\n%s", err, took, s.text())
			}
		})
	}
}

// Test_Run_RegistryThatFailsIsNobodysFault lets the registry fail after the base image was found,
// and during the push.
func Test_Run_RegistryThatFailsIsNobodysFault(t *testing.T) {
	r := newRig(t)
	proxy := registrytest.NewProxy(t, r.reg)
	for _, name := range []string{"metadata", "layer", "push"} {
		t.Run(name, func(t *testing.T) {
			img := registrytest.RandomImage(t, 1, 1<<10)
			r.reg.Push(t, "library/"+name+":1", img)
			layers, err := img.Layers()
			if err != nil {
				t.Fatal(err)
			}
			layer, err := layers[0].Digest()
			if err != nil {
				t.Fatal(err)
			}
			broken := map[string]registrytest.Matcher{
				"metadata": registrytest.Method(http.MethodGet, registrytest.Blobs),
				"layer":    func(r *http.Request) bool { return strings.Contains(r.URL.Path, layer.String()) },
				"push":     registrytest.Uploads,
			}
			proxy.Heal()
			proxy.Fail(broken[name], -1, http.StatusForbidden)
			w := r.upload(t, map[string]string{"Dockerfile": "FROM " + proxy.Addr + "/library/" + name + ":1\nCOPY Dockerfile /" + name + "\n"})
			w.BaseRef = proxy.Addr + "/bases:ref"
			t.Log(r.mustFail(t, w, infrastructure, "403"))
		})
	}
}

// Test_Run_LogThatCannotBeStoredEndsTheSolve uses a sink that is fenced.
func Test_Run_LogThatCannotBeStoredEndsTheSolve(t *testing.T) {
	r := newRig(t)
	dockerfile, mark := sleeper(r)
	_, err := r.Run(t.Context(), r.upload(t, map[string]string{"Dockerfile": dockerfile}), &fenced{})
	var f *workload.Failure
	if !errors.As(err, &f) || f.Blame != infrastructure || f.Message != "write the log: fenced" {
		t.Errorf("run: %v", err)
	}
	if left := processes(t, mark); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}

type fenced struct{ sink }

func (*fenced) Write([]byte) (int, error) { return 0, errors.New("fenced") }
