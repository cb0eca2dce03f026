//go:build faults

package mutants

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Test_Mutants: the tests pass with the unchanged source, and each fails with the defect that it
// finds. The package of a test compiles once for all defects that are inside of functions.
func Test_Mutants(t *testing.T) {
	overlay, alone := sources(t)
	var packages []string
	for _, m := range mutants {
		packages = append(packages, m.pkg)
	}
	slices.Sort(packages)
	for _, pkg := range slices.Compact(packages) {
		t.Run(strings.TrimPrefix(pkg, "./"), func(t *testing.T) {
			binary := compile(t, pkg, overlay)
			var by []string
			for i, m := range mutants {
				if m.pkg != pkg {
					continue
				}
				if !slices.Contains(by, m.by) {
					by = append(by, m.by)
				}
				t.Run(strings.ReplaceAll(m.name, " ", "-"), func(t *testing.T) {
					binary := binary
					if source, ok := alone[i]; ok {
						binary = compile(t, pkg, map[string]string{m.file: source})
					}
					begin := time.Now()
					out, err := run(t, pkg, binary, m.by, i)
					switch {
					case err == nil:
						t.Errorf("the defect survives %s:\n%s", m.by, out)
					case !strings.Contains(out, "--- FAIL") && !strings.Contains(out, "panic:"):
						t.Errorf("%s does not run: %v\n%s", m.by, err, out)
					default:
						t.Logf("caught by %s after %s", m.by, time.Since(begin).Round(100*time.Millisecond))
					}
				})
			}
			if out, err := run(t, pkg, binary, strings.Join(by, "|"), -1); err != nil || strings.Contains(out, "no tests to run") {
				t.Errorf("%s does not pass without a defect: %v\n%s", pkg, err, out)
			}
		})
	}
}

// sources returns the files with all defects that are inside of functions, by path, and for each
// other defect, by its number, its file.
func sources(t *testing.T) (overlay map[string]string, alone map[int]string) {
	t.Helper()
	overlay, alone = map[string]string{}, map[int]string{}
	files := map[string][]defect{}
	for i, m := range mutants {
		d := defect{i, m.old, m.new, m.imports}
		source := m.source(t)
		if _, err := dispatch(source, []defect{d}); err != nil {
			source = strings.Replace(source, m.old, m.new, 1)
			if m.imports != "" {
				source = strings.Replace(source, "\nimport (\n", "\nimport (\n\t\""+m.imports+"\"\n", 1)
			}
			alone[i] = source
			continue
		}
		files[m.file] = append(files[m.file], d)
	}
	for file, defects := range files {
		raw, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		source, err := dispatch(string(raw), defects)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		overlay[file] = source
	}
	return overlay, alone
}

// compile compiles the tests of a package with other text in some files, and returns the path of the
// binary.
func compile(t *testing.T, pkg string, overlay map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	replace := map[string]string{}
	for file, source := range overlay {
		path, err := filepath.Abs(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		replace[path] = filepath.Join(dir, fmt.Sprintf("%d.go", len(replace)))
		if err := os.WriteFile(replace[path], []byte(source), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	table, binary := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "tests")
	if err := os.WriteFile(table, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-overlay", table, "-o", binary, pkg)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s with its defects does not compile: %v\n%s", pkg, err, out)
	}
	return binary
}

// run runs the tests of a binary whose names match, with one defect; -1 is none.
func run(t *testing.T, pkg, binary, names string, number int) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "-test.run", "^("+names+")$", "-test.timeout", "5m")
	cmd.Dir = filepath.Join(root, pkg)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", variable, number))
	out, err := cmd.CombinedOutput()
	return string(out), err
}
