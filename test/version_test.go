package test

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// Test_DeployedVersion: the chart and the plain manifests install and name the newest version of the
// changelog, so that a release cannot forget them.
func Test_DeployedVersion(t *testing.T) {
	read := func(path ...string) string {
		t.Helper()
		raw, err := os.ReadFile(filepath.Join(append([]string{".."}, path...)...))
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	newest := regexp.MustCompile(`(?m)^## (\d+\.\d+\.\d+) `).FindStringSubmatch(read("CHANGELOG.md"))
	if newest == nil {
		t.Fatal("CHANGELOG.md has no version")
	}
	for _, c := range []struct {
		file  string
		says  string // pattern with the version
		least int    // how often
	}{
		{"helm/image-builder/Chart.yaml", `(?m)^(?:version|appVersion): "?([^"\n]+)`, 2},
		{"kubernetes/image-builder.yaml", `app\.kubernetes\.io/version: "?([^"\n]+)`, 5},
		{"kubernetes/image-builder.yaml", `helm\.sh/chart: image-builder-(\S+)`, 5},
		{"kubernetes/image-builder.yaml", `image: \S+/image-builder:(\S+)`, 1},
		{"kubernetes/image-builder-pods.yaml", `app\.kubernetes\.io/version: "?([^"\n]+)`, 5},
		{"kubernetes/image-builder-pods.yaml", `helm\.sh/chart: image-builder-(\S+)`, 5},
		{"kubernetes/image-builder-pods.yaml", `image: \S+/image-builder:(\S+)`, 1},
	} {
		found := regexp.MustCompile(c.says).FindAllStringSubmatch(read("deploy", c.file), -1)
		if len(found) < c.least {
			t.Errorf("deploy/%s has %d matches of %s, want %d at least", c.file, len(found), c.says, c.least)
		}
		for _, m := range found {
			if m[1] != newest[1] {
				t.Errorf("deploy/%s says %q, but the newest version of the changelog is %s", c.file, m[0], newest[1])
			}
		}
	}
}
