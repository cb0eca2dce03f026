package test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/image-builder-ha/image-builder/test/harness"
)

// Test_MetricsReference holds docs/metrics.md to what a node exports.
func Test_MetricsReference(t *testing.T) {
	raw, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	n := harness.Start(t, "127.0.0.1:1", nil)
	_, _ = n.Gitpod.ListBuilds(t.Context(), nil)
	body, _ := n.Get("http://" + n.Metrics + "/metrics")
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile("`((?:gitpod|image_builder|grpc)_[a-z_]+)`").FindAllStringSubmatch(string(raw), -1) {
		documented[m[1]] = true
		// A counter with labels shows once it has counted.
		if m[1] != "gitpod_image_builder_builds_done_total" && !strings.Contains(body, "# TYPE "+m[1]+" ") {
			t.Errorf("%s is documented and not exported", m[1])
		}
	}
	for _, m := range regexp.MustCompile(`# TYPE ((?:gitpod|image_builder|grpc)_[a-z_]+) `).FindAllStringSubmatch(body, -1) {
		if !documented[m[1]] {
			t.Errorf("%s is exported and not documented", m[1])
		}
	}
}
