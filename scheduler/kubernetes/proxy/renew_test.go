package proxy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/proxy"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_Proxy_Renew checks that the proxy uses credentials that change while it runs, as those of
// clouds do, and ignores all other changes of the file.
func Test_Proxy_Renew(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{Users: map[string]string{"install": "install-password", "request": "request-password"}})
	digest := reg.Push(t, "team/app:1", registrytest.RandomImage(t, 1, 1<<10))
	names := proxy.Names{Addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(testkit.FreePort(t)))}
	c := proxy.Config{
		Listen: names.Addr, Token: token, Pull: proxy.Pull{Image: reg.Addr + "/team/app@" + digest},
		Read: map[string]proxy.Auth{reg.Addr: {User: "request", Password: "it has ended"}}, AllowLoopback: true,
	}
	file := filepath.Join(t.TempDir(), "proxy.json")
	write := func() {
		raw, err := json.Marshal(c)
		if err == nil {
			err = os.WriteFile(file+".new", raw, 0o600)
		}
		if err == nil {
			err = os.Rename(file+".new", file)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- proxy.RunFile(ctx, file, slog.New(slog.NewTextHandler(t.Output(), nil))) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	i := install{Registry: reg, names: names}
	ask := func(ref string) error {
		_, err := i.client(t).Head(t.Context(), must(t)(names.Pull(ref)), i.rights(token))
		return err
	}
	until := func(what string, is func() bool) {
		t.Helper()
		deadline, tick := time.After(time.Minute), time.NewTicker(50*time.Millisecond)
		defer tick.Stop()
		for !is() {
			select {
			case <-deadline:
				t.Fatalf("still not: %s", what)
			case <-tick.C:
			}
		}
	}
	image := reg.Addr + "/team/app@" + digest
	until("the proxy listens, with a credential that has ended", func() bool { return registry.KindOf(ask(image)) == registry.Unauthorized })
	c.Read = map[string]proxy.Auth{reg.Addr: {User: "request", Password: "request-password"}}
	c.Pull = proxy.Pull{Any: true}
	write()
	until("the new credential is used", func() bool { return ask(image) == nil })
	if err := ask(reg.Addr + "/team/app:1"); registry.KindOf(err) != registry.Unauthorized {
		t.Errorf("the build was granted more: %v", err)
	}
}

// Test_Proxy_Mirrors checks that a mirror is tried first, with its own credential, and then the
// host itself.
func Test_Proxy_Mirrors(t *testing.T) {
	mirror := registrytest.Start(t, registrytest.Options{Users: map[string]string{"m": "mirror-password"}})
	digest := mirror.Push(t, "hub/team/app:1", registrytest.RandomImage(t, 1, 1<<10))
	i := start(t, func(c *proxy.Config) {
		host := strings.TrimSuffix(c.Push.Repository, "/base")
		c.Hosts = map[string]proxy.Host{host: {Mirrors: []string{"127.0.0.1:1/away", mirror.Addr + "/hub"}}}
		c.Read[mirror.Addr] = proxy.Auth{User: "m", Password: "mirror-password"}
	})
	client := i.client(t)
	if img, err := client.Head(t.Context(), must(t)(i.names.Pull(i.Addr+"/team/app:1")), i.rights(token)); err != nil || img.Digest != digest {
		t.Errorf("an image of the mirror: %+v, %v", img, err)
	}
	only := i.Push(t, "team/only:1", registrytest.RandomImage(t, 1, 1<<10))
	if img, err := client.Head(t.Context(), must(t)(i.names.Pull(i.Addr+"/team/only:1")), i.rights(token)); err != nil || img.Digest != only {
		t.Errorf("an image that the mirror does not have: %+v, %v", img, err)
	}
	// Images that the build pushes are never read from a mirror.
	host := strings.Replace(i.Addr, ":", "__", 1)
	if status, _, _ := i.do(t, http.MethodHead, i.server.URL+"/v2/push/"+host+"/base/manifests/"+digest); status != http.StatusNotFound {
		t.Errorf("an image of the mirror as one of the base repository: %d", status)
	}
}

// Test_Proxy_HTTPProxy reaches registries through the HTTP proxy of the install, which receives no
// requests for forbidden addresses.
func Test_Proxy_HTTPProxy(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	digest := reg.Push(t, "team/app:1", registrytest.RandomImage(t, 1, 1<<10))
	way := registrytest.NewProxy(t, reg)
	i := start(t, func(c *proxy.Config) {
		c.Insecure = []string{"registry.example.com", "169.254.169.254"}
		c.HTTPProxy = &proxy.HTTPProxy{HTTP: "http://user:proxy-password@" + way.Addr, No: "other.example.com"}
		if s := fmt.Sprintf("%v %+v %#v", c.HTTPProxy, c.HTTPProxy, c.HTTPProxy); strings.Contains(s, "proxy-password") {
			t.Errorf("it shows its password: %s", s)
		}
	})
	client := i.client(t)
	if img, err := client.Head(t.Context(), must(t)(i.names.Pull("registry.example.com/team/app:1")), i.rights(token)); err != nil || img.Digest != digest {
		t.Errorf("by the HTTP proxy: %+v, %v", img, err)
	}
	seen := way.Count(registrytest.All)
	if seen == 0 {
		t.Error("the HTTP proxy was not asked")
	}
	if _, err := client.Head(t.Context(), must(t)(i.names.Pull("169.254.169.254/team/app:1")), i.rights(token)); err == nil {
		t.Error("a metadata address was reached")
	}
	if n := way.Count(registrytest.All); n != seen {
		t.Errorf("the HTTP proxy received %d forbidden requests", n-seen)
	}
}
