package registry_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/registry/ecr"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
)

// sent returns the user that a request for ref presents, "" for none.
func sent(t *testing.T, o registry.Options, ref string, r registry.Rights) string {
	t.Helper()
	user := ""
	p := registrytest.NewHandlerProxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, _, ok := r.BasicAuth(); ok {
			user = u
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	o.Dial = registrytest.DialTo(map[string]string{
		"docker.io": p.Addr, "registry.example.com": p.Addr, "Registry.Example.com": p.Addr, "registry.example.com.evil.example": p.Addr,
		"evil-registry.example.com": p.Addr, "example.com": p.Addr, "other.example.com": p.Addr, "xdocker.io": p.Addr,
	})
	o.Insecure = []string{"docker.io", "registry.example.com", "registry.example.com.evil.example", "evil-registry.example.com", "example.com", "other.example.com", "xdocker.io"}
	_, err := newClient(t, o).Resolve(t.Context(), ref, "", r)
	wantKind(t, err, registry.Unauthorized)
	return user
}

func TestRights_WhichCredentialIsUsed(t *testing.T) {
	config := dockerConfig(
		t, "",
		[3]string{"registry.example.com", "install", "p"},
		[3]string{"https://index.docker.io/v1/", "hub", "p"},
		[3]string{"ws.example.com:5000", "workspace", "p"},
	)
	own := func(host string) registry.Rights {
		return registry.Rights{Additional: map[string]registry.Basic{host: {Username: "own", Password: "p"}}}
	}
	both := func(r registry.Rights, hosts ...string) registry.Rights {
		r.Hosts = hosts
		return r
	}
	for _, c := range []struct {
		name   string
		ref    string
		rights registry.Rights
		want   string
	}{
		{"no rights, no credential", "registry.example.com/a", registry.Rights{}, ""},
		{"all", "registry.example.com/a", all, "install"},
		{"the host", "registry.example.com/a", registry.Rights{Hosts: []string{"registry.example.com"}}, "install"},
		{"another host", "registry.example.com/a", registry.Rights{Hosts: []string{"example.com"}}, ""},
		{"a pattern is no host", "registry.example.com/a", registry.Rights{Hosts: []string{"*.example.com", "*", ".*", "registry?example.com"}}, ""},
		{"an empty host", "registry.example.com/a", registry.Rights{Hosts: []string{""}}, ""},
		{"capitals in the reference", "Registry.Example.com/a", all, "install"},
		{"a longer name", "registry.example.com.evil.example/a", all, ""},
		{"a name with that ending", "evil-registry.example.com/a", all, ""},
		{"the name's ending", "example.com/a", all, ""},
		{"another port", "registry.example.com:8443/a", all, ""},
		{"docker hub", "ubuntu", all, "hub"},
		{"docker hub by its host", "ubuntu", registry.Rights{Hosts: []string{"docker.io"}}, "hub"},
		{"docker hub by an alias", "docker.io/library/ubuntu", registry.Rights{Hosts: []string{"registry-1.docker.io"}}, "hub"},
		{"not docker hub", "xdocker.io/library/ubuntu", all, ""},
		{"own", "other.example.com/a", own("other.example.com"), "own"},
		{"own and all", "other.example.com/a", registry.Rights{AllowAll: true, Additional: own("other.example.com").Additional}, "own"},
		{"own where the install has one that is not allowed", "registry.example.com/a", own("registry.example.com"), "own"},
		{"the install's before own", "registry.example.com/a", both(own("registry.example.com"), "registry.example.com"), "install"},
		{"own for another host", "registry.example.com/a", own("registry.example.com.evil.example"), ""},
		{"own for the ending", "registry.example.com/a", own("example.com"), ""},
		{"own for docker hub by an alias", "ubuntu", own("https://index.docker.io/v1/"), "own"},
		{"own for docker hub", "ubuntu", own("docker.io"), "own"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := sent(t, registry.Options{DockerConfigFile: config}, c.ref, c.rights); got != c.want {
				t.Errorf("presented %q, want %q", got, c.want)
			}
		})
	}
}

// TestRights_AmazonsHostsAreAllowedByDefault checks section 9 of docs/gitpod-contract.md: Amazon's
// policies decide what the identity may read, so every request may use it there, but on no other
// host.
func TestRights_AmazonsHostsAreAllowedByDefault(t *testing.T) {
	const ecrHost, evil = "123456789012.dkr.ecr.eu-west-1.amazonaws.com", "123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil.example"
	config := dockerConfig(
		t, "",
		[3]string{ecrHost, "install", "p"}, [3]string{evil, "leak", "p"}, [3]string{"x" + ecrHost, "leak", "p"},
		[3]string{"public.ecr.aws", "leak", "p"}, [3]string{"registry.example.com", "leak", "p"},
		[3]string{"12.dkr.ecr.eu-west-1.amazonaws.com", "leak", "p"},
	)
	own := map[string]registry.Basic{ecrHost: {Username: "own", Password: "p"}}
	for _, c := range []struct {
		host   string
		rights registry.Rights
		want   string
	}{
		{ecrHost, registry.Rights{}, "install"},
		{strings.ToUpper(ecrHost), registry.Rights{}, "install"},
		{ecrHost, registry.Rights{Hosts: []string{"registry.example.com"}}, "install"},
		{ecrHost, registry.Rights{Additional: own}, "install"},
		{ecrHost, all, "install"},
		{evil, registry.Rights{}, ""},
		{"x" + ecrHost, registry.Rights{}, ""},
		{"12.dkr.ecr.eu-west-1.amazonaws.com", registry.Rights{}, ""},
		{"public.ecr.aws", registry.Rights{}, ""},
		{"registry.example.com", registry.Rights{Hosts: []string{ecrHost}}, ""},
	} {
		c.rights.AllowAll = c.rights.AllowAll && c.host == ecrHost
		client := newClient(t, registry.Options{DockerConfigFile: config, AllowedByDefault: ecr.Private})
		user, _, err := client.Credential(t.Context(), c.host, "a", c.rights)
		if err != nil || user != c.want {
			t.Errorf("%s with %+v: presented %q, %v, want %q", c.host, c.rights, user, err, c.want)
		}
	}
}

// TestCredential_ReturnsFailuresAndKnowsRepositories expects a failed provider to be an error, and
// entries for repositories to be used.
func TestCredential_ReturnsFailuresAndKnowsRepositories(t *testing.T) {
	failing := &provider{host: "failing.example.com", login: func(int64) (registry.Login, error) {
		return registry.Login{}, errors.New("hunter2")
	}}
	c := newClient(t, registry.Options{
		Providers:        []registry.Provider{failing},
		DockerConfigFile: dockerConfig(t, "", [3]string{"registry.example.com", "host", "p"}, [3]string{"registry.example.com/team", "team", "p"}),
	})
	if user, _, err := c.Credential(t.Context(), "failing.example.com", "", all); registry.KindOf(err) != registry.Unavailable || user != "" || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("of a provider that fails: %q, %v", user, err)
	}
	for repository, want := range map[string]string{"": "host", "other": "host", "team/a": "team", "teams": "host"} {
		if user, _, err := c.Credential(t.Context(), "registry.example.com", repository, all); err != nil || user != want {
			t.Errorf("of %q: %q, %v, want %q", repository, user, err, want)
		}
	}
}

func TestRights_OwnCredentialsNeverReachTheWorkspaceHost(t *testing.T) {
	for _, ref := range []string{"registry.example.com/a", "Registry.Example.com/a", "registry.example.com:80/a"} {
		rights := registry.Rights{Additional: map[string]registry.Basic{}}
		for _, host := range []string{"registry.example.com", "Registry.Example.com", "registry.example.com:80", "https://registry.example.com/v2/", "registry.example.com."} {
			rights.Additional[host] = registry.Basic{Username: "own", Password: "p"}
		}
		if got := sent(t, registry.Options{WorkspaceHost: "registry.example.com"}, ref, rights); got != "" {
			t.Errorf("%s: presented %q to the workspace host", ref, got)
		}
	}
}

func TestRights_AWrongPasswordDoesNotShareASessionWithARightOne(t *testing.T) {
	reg, digest := pushed(t, registrytest.Options{Users: map[string]string{"user": "right"}}, "a:1")
	c := newClient(t, registry.Options{})
	rights := func(password string) registry.Rights {
		return registry.Rights{Additional: map[string]registry.Basic{reg.Addr: {Username: "user", Password: password}}}
	}
	for range 2 {
		got, err := c.Resolve(t.Context(), reg.Addr+"/a:1", "", rights("right"))
		if err != nil || got.Digest != digest || got.Anonymous {
			t.Fatalf("with the right password: %+v, %v", got, err)
		}
		for _, r := range []registry.Rights{rights("hunter2"), {}} {
			_, err := c.Resolve(t.Context(), reg.Addr+"/a:1", "", r)
			wantKind(t, err, registry.Unauthorized)
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows the password: %v", err)
			}
		}
	}
}

func TestDockerConfig_ReloadedOnSymlinkSwapAndChange(t *testing.T) {
	reg, _ := pushed(t, registrytest.Options{Users: map[string]string{"user": "new"}}, "a:1")
	// Kubernetes mounts a secret in this way: config.json -> ..data/config.json, and ..data -> a
	// folder with a time stamp.
	dir := t.TempDir()
	mount := func(version, password string) {
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		dockerConfig(t, filepath.Join(dir, version, "config.json"), [3]string{reg.Addr, "user", password})
		if err := os.Symlink(version, filepath.Join(dir, "tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	mount("..1", "old")
	file := filepath.Join(dir, "config.json")
	if err := os.Symlink("..data/config.json", file); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, registry.Options{DockerConfigFile: file})
	resolve := func() error {
		_, err := c.Resolve(t.Context(), reg.Addr+"/a:1", "", all)
		return err
	}
	wantKind(t, resolve(), registry.Unauthorized)
	mount("..2", "new")
	if err := resolve(); err != nil {
		t.Fatalf("after the swap: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "..2", "config.json"), []byte(`{"auths":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := resolve(); err != nil {
		t.Fatalf("after the file broke: %v", err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := resolve(); err != nil {
		t.Fatalf("after the file went: %v", err)
	}
	dockerConfig(t, file, [3]string{reg.Addr, "user", "bad"})
	wantKind(t, resolve(), registry.Unauthorized)
}

func TestNew_RefusesBrokenFilesWithoutShowingThem(t *testing.T) {
	write := func(s string) string {
		file := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	for _, o := range []registry.Options{
		{DockerConfigFile: "/does/not/exist"},
		{DockerConfigFile: write(`hunter2`)},
		{DockerConfigFile: write(`{"auths":{"a":{"auth":"hunter2!"}}}`)},
		{DockerConfigFile: write(`{"auths":{"a":{"auth":"aHVudGVyMg=="}}}`)},
		{DockerConfigFile: write(strings.Repeat(" ", 1<<20+1))},
		{CAFile: "/does/not/exist"},
		{CAFile: write("hunter2")},
	} {
		c, err := registry.New(o)
		if err == nil {
			t.Errorf("%+v: no error", o)
			_ = c.Close()
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error shows the file: %v", err)
		}
	}
}

func TestTokens_RequestedOnceAndRenewed(t *testing.T) {
	reg, _ := pushed(t, registrytest.Options{}, "a:1")
	p := registrytest.NewProxy(t, reg)
	p.RequireTokens(map[string]string{"user": "p"}, func(user, _, _ string) bool { return user == "user" })
	c := newClient(t, registry.Options{DockerConfigFile: dockerConfig(t, "", [3]string{p.Addr, "user", "p"})})
	resolve := func(r registry.Rights) error {
		_, err := c.Resolve(t.Context(), p.Addr+"/a:1", "", r)
		return err
	}
	for range 3 {
		if err := resolve(all); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"repository:a:pull"}, p.Scopes()); diff != "" {
		t.Errorf("requested scopes (-want +got):\n%s", diff)
	}
	p.ExpireTokens()
	if err := resolve(all); err != nil {
		t.Fatalf("with an expired token: %v", err)
	}
	wantKind(t, resolve(registry.Rights{}), registry.Unauthorized)
}

func TestSession_RenewedWhenTheRegistryBeginsToAskForTokens(t *testing.T) {
	reg, _ := pushed(t, registrytest.Options{}, "a:1")
	p := registrytest.NewProxy(t, reg)
	c := newClient(t, registry.Options{})
	for i := range 2 {
		if _, err := c.Resolve(t.Context(), p.Addr+"/a:1", "", all); err != nil {
			t.Fatalf("look-up %d: %v", i, err)
		}
		p.RequireTokens(nil, nil)
	}
}

func TestCredentials_AreNotSentToWhereARedirectLeads(t *testing.T) {
	reg, _ := pushed(t, registrytest.Options{}, "a:1")
	elsewhere, p := registrytest.NewProxy(t, reg), registrytest.NewProxy(t, reg)
	p.Redirect(registrytest.Manifests, -1, "http://"+elsewhere.Addr)
	p.FailWith(registrytest.Pings, -1, http.StatusUnauthorized, http.Header{"Www-Authenticate": {`Basic realm="x"`}})
	c := newClient(t, registry.Options{DockerConfigFile: dockerConfig(t, "", [3]string{p.Addr, "user", "p"})})
	if _, err := c.Resolve(t.Context(), p.Addr+"/a:1", "", all); err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, r := range append(p.Requests(), elsewhere.Requests()...) {
		got[fmt.Sprint(r.Host == p.Addr, r.URL.Path == "/v2/", r.Header.Get("Authorization") != "")] = true
	}
	want := map[string]bool{"true true false": true, "true false true": true, "false false false": true}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("to the registry, ping, with credentials (-want +got):\n%s", diff)
	}
}
