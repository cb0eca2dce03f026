package observability

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_MetricsReference compares docs/metrics.md with the metrics that a node exports.
func Test_MetricsReference(t *testing.T) {
	raw, err := os.ReadFile(testkit.File("docs/metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	n := harness.Start(t, "127.0.0.1:1", harness.Config{"tracing": map[string]any{"endpoint": "127.0.0.1:1"}})
	_, _ = n.Gitpod.ListBuilds(t.Context(), nil)
	body, _ := n.Get("http://" + n.Metrics + "/metrics")
	documented := map[string]bool{}
	row := regexp.MustCompile("(?m)^\\| ((?:`(?:gitpod|image_builder|grpc)_[a-z_]+`(?:, )?)+) \\| (.*?) ?\\|")
	for _, r := range row.FindAllStringSubmatch(string(raw), -1) {
		for _, m := range strings.Split(r[1], ", ") {
			name := strings.Trim(m, "`")
			documented[name] = true
			// A metric with labels is exported after its first value only.
			if r[2] == "" && !strings.Contains(body, "# TYPE "+name+" ") {
				t.Errorf("%s is documented and not exported", name)
			}
		}
	}
	for _, m := range regexp.MustCompile(`# TYPE ((?:gitpod|image_builder|grpc)_[a-z_]+) `).FindAllStringSubmatch(body, -1) {
		if !documented[m[1]] {
			t.Errorf("%s is exported and not documented", m[1])
		}
	}
}
