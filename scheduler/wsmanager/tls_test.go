package wsmanager_test

import (
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/image-builder-ha/image-builder/scheduler/wsmanager"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager/wsmanagertest"
)

// secured returns an environment whose ws-manager requires client certificates.
func secured(t *testing.T, creds credentials.TransportCredentials, files *wsmanager.TLS) *env {
	t.Helper()
	e := newEnv(t)
	e.m = wsmanagertest.NewManager(t, creds)
	e.m.Access(e.sup.Access)
	e.rt = e.runtime(func(o *wsmanager.Options) { o.TLS = files })
	return e
}

func Test_TLS_Mutual(t *testing.T) {
	ca := wsmanagertest.NewAuthority(t)
	cert, key := ca.Issue("image-builder")
	e := secured(t, ca.Server("ws-manager"), &wsmanager.TLS{CA: ca.CA, Cert: cert, Key: key})
	r := e.begin(dockerfileWorkload())
	e.img.push(ref, baseRef)
	e.stopped()
	r.succeeds(built("base-images"))
}

func Test_TLS_Refuses(t *testing.T) {
	ca, other := wsmanagertest.NewAuthority(t), wsmanagertest.NewAuthority(t)
	cert, key := ca.Issue("image-builder")
	wrongCert, wrongKey := other.Issue("image-builder")
	for name, c := range map[string]struct {
		server string
		files  wsmanager.TLS
	}{
		"a server of another authority": {"ws-manager", wsmanager.TLS{CA: other.CA, Cert: cert, Key: key}},
		"a server of another name":      {"content-service", wsmanager.TLS{CA: ca.CA, Cert: cert, Key: key}},
		"us, of another authority":      {"ws-manager", wsmanager.TLS{CA: ca.CA, Cert: wrongCert, Key: wrongKey}},
	} {
		t.Run(name, func(t *testing.T) {
			e := secured(t, ca.Server(c.server), &c.files)
			if names, err := e.rt.List(e.ctx); err == nil {
				t.Errorf("List = %v", names)
			}
			if n := e.m.Calls("GetWorkspaces"); n != 0 {
				t.Errorf("%d calls reached ws-manager", n)
			}
		})
	}
}

// Test_TLS_RenewedFiles checks that certificates may be renewed while the process runs.
func Test_TLS_RenewedFiles(t *testing.T) {
	ca, other := wsmanagertest.NewAuthority(t), wsmanagertest.NewAuthority(t)
	cert, key := other.Issue("image-builder")
	e := secured(t, ca.Server("ws-manager"), &wsmanager.TLS{CA: ca.CA, Cert: cert, Key: key})
	if _, err := e.rt.List(e.ctx); err == nil {
		t.Fatal("a wrong certificate is accepted")
	}
	newCert, newKey := ca.Issue("image-builder")
	for from, to := range map[string]string{newCert: cert, newKey: key} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	e.m.AwaitSubscription(e.ctx)
	if _, err := e.rt.List(e.ctx); err != nil {
		t.Error(err)
	}
}

func Test_Options_Invalid(t *testing.T) {
	ca := wsmanagertest.NewAuthority(t)
	cert, key := ca.Issue("image-builder")
	valid := func() wsmanager.Options {
		return wsmanager.Options{Address: "127.0.0.1:1", BuilderImage: "b", Images: (&images{}).head, Log: slog.New(slog.DiscardHandler)}
	}
	for want, change := range map[string]func(*wsmanager.Options){
		"wsman.address":        func(o *wsmanager.Options) { o.Address = "" },
		"builderImage":         func(o *wsmanager.Options) { o.BuilderImage = "" },
		"Images":               func(o *wsmanager.Options) { o.Images = nil },
		"ca, crt and key":      func(o *wsmanager.Options) { o.TLS = &wsmanager.TLS{CA: ca.CA} },
		"Timeout is negative":  func(o *wsmanager.Options) { o.Timeout = -time.Second },
		"TerminalBuffer":       func(o *wsmanager.Options) { o.TerminalBuffer = -1 },
		"read wsman.tls.ca":    func(o *wsmanager.Options) { o.TLS = &wsmanager.TLS{CA: "/nowhere", Cert: cert, Key: key} },
		"holds no certificate": func(o *wsmanager.Options) { o.TLS = &wsmanager.TLS{CA: key, Cert: cert, Key: key} },
		"crt and key":          func(o *wsmanager.Options) { o.TLS = &wsmanager.TLS{CA: ca.CA, Cert: key, Key: key} },
	} {
		o := valid()
		change(&o)
		if rt, err := wsmanager.New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: New: %v", want, err)
			if rt != nil {
				_ = rt.Close()
			}
		}
	}
	rt, err := wsmanager.New(valid())
	if err != nil {
		t.Fatal(err)
	}
	if err := rt.Close(); err != nil {
		t.Error(err)
	}
}
