package registry_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// helper puts a program docker-credential-NAME into PATH. The program runs the shell script; calls
// returns how often it ran.
func helper(t *testing.T, name, script string) (calls func() int) {
	t.Helper()
	dir := t.TempDir()
	count := filepath.Join(dir, "calls")
	body := fmt.Sprintf("#!/bin/sh\necho x >>%s\nread server\n%s\n", count, script)
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-"+name), []byte(body), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() int {
		b, _ := os.ReadFile(count) // a missing file means no calls
		return strings.Count(string(b), "x")
	}
}

func configWith(t *testing.T, json string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(path, []byte(json), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestHelper_RunsForItsHostsOnly(t *testing.T) {
	calls := helper(t, "test", `echo "{\"ServerURL\":\"$server\",\"Username\":\"of ${server#https:}\",\"Secret\":\"s\"}"`)
	o := registry.Options{DockerConfigFile: configWith(t, `{"credHelpers":{"registry.example.com":"test","https://index.docker.io/v1/":"test"}}`)}
	for ref, want := range map[string]string{
		"registry.example.com/a":              "of registry.example.com",
		"ubuntu":                              "of //index.docker.io/v1/",
		"other.example.com/a":                 "",
		"registry.example.com.evil.example/a": "",
	} {
		if got := sent(t, o, ref, all); got != want {
			t.Errorf("%s: presented %q, want %q", ref, got, want)
		}
	}
	if n := calls(); n != 2 {
		t.Errorf("the helper ran %d times, want 2", n)
	}
	if got := sent(t, o, "registry.example.com/a", registry.Rights{}); got != "" || calls() != 2 {
		t.Errorf("without rights: presented %q, the helper ran %d times", got, calls())
	}
}

func TestHelper_OfTheStoreIsForEveryOtherHost(t *testing.T) {
	helper(t, "store", `case "$server" in other*) echo "credentials not found in native keychain"; exit 1;; esac; echo "{\"Username\":\"stored\",\"Secret\":\"s\"}"`)
	o := registry.Options{DockerConfigFile: configWith(t, `{"credsStore":"store","auths":{"example.com":{"username":"u","password":"p"},"registry.example.com":{}}}`)}
	for ref, want := range map[string]string{"example.com/a": "u", "registry.example.com/a": "stored", "other.example.com/a": ""} {
		if got := sent(t, o, ref, all); got != want {
			t.Errorf("%s: presented %q, want %q", ref, got, want)
		}
	}
}

func TestHelper_RunsOnceForAllWaiters(t *testing.T) {
	calls := helper(t, "slow", `sleep 0.2; echo '{"Username":"u","Secret":"s"}'`)
	reg := registrytest.Start(t, registrytest.Options{Users: map[string]string{"u": "s"}})
	digest := reg.Push(t, "a:1", registrytest.RandomImage(t, 1, 1<<10))
	c := newClient(t, registry.Options{DockerConfigFile: configWith(t, `{"credHelpers":{"`+reg.Addr+`":"slow"}}`)})
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			ref := reg.Addr + "/a:1"
			if i%2 == 0 {
				ref = reg.Addr + "/a@" + digest
			}
			if img, err := c.Resolve(t.Context(), ref, "", all); err != nil || img.Digest != digest || img.Anonymous {
				t.Errorf("%+v, %v", img, err)
			}
		})
	}
	wg.Wait()
	if n := calls(); n != 1 {
		t.Errorf("the helper ran %d times", n)
	}
}

func TestHelper_FailuresNameItAndShowNothing(t *testing.T) {
	for name, c := range map[string]struct{ script, want string }{
		"fails":     {"echo secret-1; echo secret-2 >&2; exit 3", "exit status 3"},
		"nonsense":  {"echo secret-1", "did not print a credential"},
		"unbounded": {"head -c 70000 /dev/zero | tr '\\0' s", "more than 64 KiB"},
	} {
		t.Run(name, func(t *testing.T) {
			calls := helper(t, name, c.script)
			cl := newClient(t, registry.Options{DockerConfigFile: configWith(t, `{"credHelpers":{"example.com":"`+name+`"}}`)})
			for range 3 {
				_, err := cl.Resolve(t.Context(), "example.com/a", "", all)
				wantKind(t, err, registry.Unavailable)
				if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "secret-") {
					t.Errorf("error: %v", err)
				}
			}
			if n := calls(); n != 1 {
				t.Errorf("a broken helper ran %d times for 3 requests at once", n)
			}
		})
	}
}

func TestHelper_ThatHangsEndsWithTheRequest(t *testing.T) {
	helper(t, "hang", "sleep 60")
	cl := newClient(t, registry.Options{DockerConfigFile: configWith(t, `{"credHelpers":{"example.com":"hang"}}`)})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := cl.Resolve(ctx, "example.com/a", "", all)
	wantKind(t, err, registry.Unavailable)
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
}

func TestNew_RefusesHelpersThatAreNoNames(t *testing.T) {
	for _, name := range []string{"../evil", "a/b", "-x", "a b"} {
		if _, err := registry.New(registry.Options{DockerConfigFile: configWith(t, `{"credHelpers":{"example.com":"`+name+`"}}`)}); err == nil {
			t.Errorf("%q was accepted", name)
		}
	}
}

func TestDockerConfig_TheLongestPathWins(t *testing.T) {
	o := registry.Options{DockerConfigFile: dockerConfig(
		t, "",
		[3]string{"registry.example.com", "host", "p"},
		[3]string{"registry.example.com/team", "team", "p"},
		[3]string{"registry.example.com/team/app", "app", "p"},
		[3]string{"other.example.com/team", "other", "p"},
	)}
	for ref, want := range map[string]string{
		"registry.example.com/a":          "host",
		"registry.example.com/team/x":     "team",
		"registry.example.com/teams/x":    "host",
		"registry.example.com/team/app":   "app",
		"registry.example.com/team/app/x": "app",
		"other.example.com/team/x":        "other",
		"other.example.com/a":             "",
	} {
		if got := sent(t, o, ref, all); got != want {
			t.Errorf("%s: presented %q, want %q", ref, got, want)
		}
	}
}

// provider is a Provider for a single host.
type provider struct {
	host  string
	calls atomic.Int64
	login func(n int64) (registry.Login, error)
}

func (p *provider) Name() string             { return "test" }
func (p *provider) Matches(host string) bool { return host == p.host }
func (p *provider) Login(context.Context, string) (registry.Login, error) {
	return p.login(p.calls.Add(1))
}

func TestProvider_IsUsedForHostsWithoutAnEntry(t *testing.T) {
	p := &provider{host: "registry.example.com", login: func(int64) (registry.Login, error) {
		return registry.Login{Username: "provided", Password: "p"}, nil
	}}
	o := registry.Options{Providers: []registry.Provider{p}, DockerConfigFile: dockerConfig(t, "", [3]string{"example.com", "u", "p"})}
	for ref, want := range map[string]string{"example.com/a": "u", "registry.example.com/a": "provided", "other.example.com/a": ""} {
		if got := sent(t, o, ref, all); got != want {
			t.Errorf("%s: presented %q, want %q", ref, got, want)
		}
	}
}

func TestProvider_RenewsBeforeItsLoginEnds(t *testing.T) {
	p := &provider{host: "registry.example.com", login: func(n int64) (registry.Login, error) {
		if n == 2 {
			return registry.Login{}, errors.New("secret-text")
		}
		return registry.Login{Username: fmt.Sprint("u", n), Password: "p", Expires: time.Now().Add(20 * time.Millisecond)}, nil
	}}
	c := newClient(t, registry.Options{Providers: []registry.Provider{p}})
	testkit.Eventually(t, 10*time.Second, "a third login is presented", func() bool {
		user, _, _ := c.Credential(t.Context(), "registry.example.com", "", all)
		return user == "u3"
	})
}
