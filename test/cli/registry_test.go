package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
)

// Test_CLI_ExaminesRegistries explains an image and examines its registry with the configuration of
// a node, which contains a password.
func Test_CLI_ExaminesRegistries(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{Users: map[string]string{"user": "pass-word-1"}})
	digest := reg.Push(t, "team/app:1", registrytest.RandomImage(t, 1, 1<<10))
	write := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	auths := write("docker.json", `{"auths":{"`+reg.Addr+`":{"username":"user","password":"pass-word-1"}}}`)
	config := write("config.yaml", "registry: {allowLoopback: true}\norchestrator: {pullSecretFile: "+auths+"}\n")
	for _, c := range []struct {
		args   []string
		status int
		want   []string
	}{
		{[]string{"resolve", "--explain", "--config", config, reg.Addr + "/team/app:1"}, 0, []string{digest, "entry " + reg.Addr, "/manifests/1: 200", "linux/amd64"}},
		{[]string{"resolve", "--explain", "--config", config, reg.Addr + "/team/app:2"}, 2, []string{"not found", "/manifests/2: 404"}},
		{[]string{"doctor", "registry", "--config", config, reg.Addr}, 0, []string{"ok", "entry " + reg.Addr}},
		{[]string{"doctor", "registry", "--config", config, "127.0.0.1:9"}, 1, []string{"failed", "connection"}},
		{[]string{"doctor", "registry", "--config", "/no/such/file", reg.Addr}, 2, []string{"read config"}},
	} {
		out, errOut, status := harness.CLI(t, "", c.args...)
		for _, text := range c.want {
			if !strings.Contains(out+errOut, text) {
				t.Errorf("%q lacks %q:\n%s%s", c.args, text, out, errOut)
			}
		}
		if status != c.status || strings.Contains(out+errOut, "pass-word-1") {
			t.Errorf("%q: status %d, want %d:\n%s%s", c.args, status, c.status, out, errOut)
		}
	}
}
