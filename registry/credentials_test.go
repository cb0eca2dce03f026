package registry_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/image-builder-ha/image-builder/registry"
)

// TestCredentials_All compares the credentials of all hosts for several rights.
func TestCredentials_All(t *testing.T) {
	client := newClient(t, registry.Options{
		WorkspaceHost:    "ws.example.com",
		DockerConfigFile: dockerConfig(t, "", [3]string{"registry.example.com", "install", "p"}, [3]string{"https://index.docker.io/v1/", "hub", "p"}),
	})
	own := map[string]registry.Basic{
		"other.example.com:5000": {Username: "own", Password: "p"},
		"registry.example.com":   {Username: "own", Password: "p"},
		"ws.example.com":         {Username: "own", Password: "p"},
	}
	for name, c := range map[string]struct {
		rights registry.Rights
		want   map[string]string // user by host
	}{
		"none":     {registry.Rights{}, map[string]string{}},
		"all":      {registry.Rights{AllowAll: true}, map[string]string{"registry.example.com": "install", "docker.io": "hub"}},
		"one host": {registry.Rights{Hosts: []string{"docker.io"}}, map[string]string{"docker.io": "hub"}},
		"own":      {registry.Rights{Additional: own}, map[string]string{"registry.example.com": "own", "other.example.com:5000": "own"}},
		"all and own": {registry.Rights{AllowAll: true, Additional: own}, map[string]string{
			"registry.example.com": "install", "docker.io": "hub", "other.example.com:5000": "own",
		}},
	} {
		got := map[string]string{}
		found, failed := client.Credentials(t.Context(), c.rights)
		if len(failed) > 0 {
			t.Errorf("%s: %v", name, failed)
		}
		for host, b := range found {
			got[host] = b.Username
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

// TestCredentials_AFailureIsNotAnonymity expects a failing provider to be reported as an error, and
// the credentials of the other hosts to be returned.
func TestCredentials_AFailureIsNotAnonymity(t *testing.T) {
	client := newClient(t, registry.Options{
		Providers:        []registry.Provider{&provider{host: "cloud.example.com", login: func(int64) (registry.Login, error) { return registry.Login{}, errors.New("secret-text") }}},
		DockerConfigFile: dockerConfig(t, "", [3]string{"registry.example.com", "install", "p"}),
	})
	got, failed := client.Credentials(t.Context(), all, "cloud.example.com", "anonymous.example.com")
	if len(got) != 1 || got["registry.example.com"].Username != "install" {
		t.Errorf("got %v", got)
	}
	err := failed["cloud.example.com"]
	if len(failed) != 1 {
		t.Errorf("failed %v", failed)
	}
	wantKind(t, err, registry.Unavailable)
	if !strings.Contains(err.Error(), "cloud.example.com") || strings.Contains(err.Error(), "secret-text") {
		t.Errorf("error: %v", err)
	}
	if got, err := client.Credentials(t.Context(), registry.Rights{}, "cloud.example.com"); len(err) > 0 || len(got) != 0 {
		t.Errorf("without the right to it: %v, %v", got, err)
	}
}
