//go:build kubernetes

package deploytest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"github.com/image-builder-ha/image-builder/test/testkit"
)

// output collects the output of processes. It may be used concurrently.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// startAPI starts an etcd and a kube-apiserver and returns the client configuration for it.
func startAPI(t *testing.T) *rest.Config {
	t.Helper()
	dir := t.TempDir()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, raw []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	account := write("sa.key", pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
	tokens := write("tokens.csv", []byte("secret,admin,admin,system:masters\n"))
	var log output
	start := func(name string, args ...string) {
		path, err := filepath.Abs(filepath.Join("../../test/kubernetes/bin", name))
		if err == nil {
			if _, err = os.Stat(path); err != nil {
				path, err = exec.LookPath(name)
			}
		}
		if err != nil {
			t.Fatalf("this test needs %s: run test/kubernetes/build.sh and apt-get install etcd-server: %v", name, err)
		}
		cmd := exec.Command(path, args...)
		cmd.Stdout, cmd.Stderr = &log, &log
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
	}
	etcd, peers, port := "http://"+testkit.FreeAddr(t), "http://"+testkit.FreeAddr(t), testkit.FreeAddr(t)
	start("etcd", "--data-dir", filepath.Join(dir, "etcd"), "--unsafe-no-fsync", "--listen-client-urls", etcd, "--advertise-client-urls", etcd,
		"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", "default="+peers)
	_, number, _ := net.SplitHostPort(port)
	start("kube-apiserver", "--etcd-servers", etcd, "--secure-port", number, "--bind-address=127.0.0.1", "--cert-dir", dir, "--token-auth-file", tokens,
		"--endpoint-reconciler-type=none", "--service-account-key-file", account, "--service-account-signing-key-file", account,
		"--service-account-issuer=https://kubernetes.default.svc", "--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24")
	config := &rest.Config{Host: "https://" + port, BearerToken: "secret", QPS: 500, Burst: 500, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
	d, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	deadline, tick := time.Now().Add(2*time.Minute), time.NewTicker(100*time.Millisecond)
	defer tick.Stop()
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		_, err := d.RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		cancel()
		if err == nil {
			return config
		}
		if time.Now().After(deadline) {
			t.Fatalf("the apiserver is not ready: %v\n%.3000s", err, log.String())
		}
		<-tick.C
	}
}

// Test_Chart_AcceptedByAPIServer: a real API server accepts every built-in object of the chart,
// with every set of values, and of the plain manifests. The dry run refuses unknown fields. Other
// tests check the objects of CRDs.
func Test_Chart_AcceptedByAPIServer(t *testing.T) {
	config := startAPI(t)
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	for _, ns := range []string{"image-builder", "builds", "image-builder-builds"} {
		if _, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	dyn, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery()))
	accept := func(t *testing.T, objects []Object) {
		t.Helper()
		taken := 0
		for _, o := range objects {
			if !Builtin(o) || o.Kind() == "Namespace" {
				continue
			}
			u := &unstructured.Unstructured{Object: o}
			m, err := mapper.RESTMapping(u.GroupVersionKind().GroupKind(), u.GroupVersionKind().Version)
			if err != nil {
				t.Errorf("%s %s: %v", o.Kind(), o.Name(), err)
				continue
			}
			in := u.GetNamespace()
			if in == "" {
				in = "image-builder"
			}
			opts := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict}
			if _, err := dyn.Resource(m.Resource).Namespace(in).Create(t.Context(), u, opts); err != nil {
				t.Errorf("%s %s: %v", o.Kind(), o.Name(), err)
			}
			taken++
		}
		if taken < 5 {
			t.Errorf("only %d objects were sent", taken)
		}
	}
	each(t, accept)
	for file := range PlainFiles {
		text, err := PlainManifests(Root, file)
		if err != nil {
			t.Fatal(err)
		}
		objects, err := Objects(text)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(fmt.Sprint("plain ", strings.TrimSuffix(file, ".yaml")), func(t *testing.T) { accept(t, objects) })
	}
}
