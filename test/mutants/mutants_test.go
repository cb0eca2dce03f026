//go:build faults

package mutants

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Test_Mutants: the tests pass with the unchanged source, and each fails with the defect that it
// finds.
func Test_Mutants(t *testing.T) {
	tests := map[string][]string{} // package to its tests
	for _, m := range mutants {
		if !slices.Contains(tests[m.pkg], m.by) {
			tests[m.pkg] = append(tests[m.pkg], m.by)
		}
	}
	for pkg, by := range tests {
		if out, err := run(pkg, strings.Join(by, "|")); err != nil || strings.Contains(out, "no tests to run") {
			t.Fatalf("%s does not pass without a defect: %v\n%s", pkg, err, out)
		}
	}
	for _, m := range mutants {
		t.Run(strings.ReplaceAll(m.name, " ", "-"), func(t *testing.T) {
			source := m.source(t)
			path, err := filepath.Abs(filepath.Join(root, m.file))
			if err != nil {
				t.Fatal(err)
			}
			changed, overlay := filepath.Join(t.TempDir(), "changed.go"), filepath.Join(t.TempDir(), "overlay.json")
			if err := os.WriteFile(changed, []byte(m.applied(source)), 0o600); err != nil {
				t.Fatal(err)
			}
			table, err := json.Marshal(map[string]any{"Replace": map[string]string{path: changed}})
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(overlay, table, 0o600); err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			out, err := run(m.pkg, m.by, "-overlay", overlay)
			switch {
			case err == nil:
				t.Errorf("the defect survives %s:\n%s", m.by, out)
			case !strings.Contains(out, "--- FAIL") && !strings.Contains(out, "panic:"):
				t.Errorf("the defect does not compile:\n%s", out)
			default:
				t.Logf("caught by %s after %s", m.by, time.Since(begin).Round(100*time.Millisecond))
			}
		})
	}
}

// applied returns the source with the defect.
func (m mutant) applied(source string) string {
	source = strings.Replace(source, m.old, m.new, 1)
	if m.imports != "" {
		source = strings.Replace(source, "\nimport (\n", "\nimport (\n\t\""+m.imports+"\"\n", 1)
	}
	return source
}

// run runs the tests of a package whose names match.
func run(pkg, names string, args ...string) (string, error) {
	cmd := exec.Command("go", append(append([]string{"test", "-count=1", "-vet=off", "-ldflags=-s -w"}, args...), "-run", "^("+names+")$", pkg)...)
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	return string(out), err
}
