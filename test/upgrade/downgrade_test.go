//go:build faults

package upgrade

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

	"github.com/image-builder-ha/image-builder/builds"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// nextVersion compiles this version with one feature level more, which has no command of its own,
// and returns the path of the binary.
func nextVersion(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(root, "builds", "feature_level.go")
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	this, next := fmt.Sprint("const FeatureLevel = ", builds.FeatureLevel), fmt.Sprint("const FeatureLevel = ", builds.FeatureLevel+1)
	if strings.Count(string(raw), this) != 1 {
		t.Fatalf("%s does not contain %q once", file, this)
	}
	dir := t.TempDir()
	changed, overlay, program := filepath.Join(dir, "changed.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "image-builder")
	table, err := json.Marshal(map[string]any{"Replace": map[string]string{file: changed}})
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string][]byte{changed: []byte(strings.Replace(string(raw), this, next, 1)), overlay: table} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-overlay", overlay, "-o", program, "./cmd/image-builder")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("compile the next version: %v\n%s", err, out)
	}
	return program
}

// Test_Downgrade starts a version on the data of a version with a higher feature level. The level
// adds only fields: the data has no command and no record of a kind that the version does not know.
// The version must stop and name both levels, whether it reads the level in the log or in a
// snapshot. The data stays intact.
func Test_Downgrade(t *testing.T) {
	const level = builds.FeatureLevel
	for _, c := range []struct {
		name               string
		newer, older       func(*testing.T) string // nil: this version
		newLevel, oldLevel uint32
	}{
		{"from this version to 0.3.0", nil, func(t *testing.T) string { return release(t, "0.3.0") }, level, 4},
		{"from the next version to this one", nextVersion, nil, level + 1, level},
	} {
		t.Run(c.name, func(t *testing.T) {
			program := func(compile func(*testing.T) string) string {
				if compile == nil {
					return ""
				}
				return compile(t)
			}
			newer, older := program(c.newer), program(c.older)
			for where, snapshots := range map[string]bool{"in the log": false, "in a snapshot": true} {
				t.Run(where, func(t *testing.T) { downgrade(t, newer, older, c.newLevel, c.oldLevel, snapshots) })
			}
		})
	}
}

// downgrade makes data with one program and starts another one on it.
func downgrade(t *testing.T, newer, older string, newLevel, oldLevel uint32, snapshots bool) {
	reg := registrytest.Start(t, registrytest.Options{})
	ref := harness.PushImages(t, reg, 1)[0]
	dir := t.TempDir()
	over := harness.Config{}
	if snapshots {
		over["raft"] = map[string]any{"snapshotThreshold": 5, "snapshotInterval": "100ms"}
	}
	n := harness.New(t, dir, reg.Addr, over)
	n.Program = newer
	n.Run()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	testkit.Eventually(t, time.Minute, "the feature level is raised", func() bool {
		res, err := n.Members(ctx, false)
		return err == nil && res.FeatureLevel == newLevel
	})
	var ids []string
	all := func() []string {
		found, err := filepath.Glob(filepath.Join(dir, "data/raft/snapshots/*/state.bin"))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	early := all() // may have a lower level
	written := func() bool {
		return slices.ContainsFunc(all(), func(path string) bool {
			return !slices.Contains(early, path) && !strings.Contains(path, ".tmp")
		})
	}
	for len(ids) == 0 || snapshots && !written() {
		res, err := n.Native.BuildImage(ctx, &imagebuilderv1.BuildImageRequest{RequestId: fmt.Sprint(len(ids)), Source: harness.RefSource(ref), Force: true, Requester: "r"})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, res.Build.Id)
		n.Wait(t, ctx, res.Build.Id)
	}
	if !snapshots && written() {
		t.Fatal("the data has a snapshot")
	}
	n.Stop()
	logged := len(n.Log())
	n.Program = older
	n.Launch()
	select {
	case <-n.Exited():
	case <-ctx.Done():
		t.Fatalf("a version of feature level %d runs on data of level %d", oldLevel, newLevel)
	}
	want := fmt.Sprintf("needs feature level %d, this version knows %d", newLevel, oldLevel)
	if snapshots {
		want = "read snapshot: it " + want
	}
	if log := n.Log()[logged:]; n.ExitCode() == 0 || !strings.Contains(log, want) {
		t.Errorf("it ended with status %d, and its log does not say %q:\n%s", n.ExitCode(), want, log)
	}
	n.Program = newer
	n.Run()
	for _, id := range ids {
		if b := n.Wait(t, ctx, id); b.GetPhase() != imagebuilderv1.Phase_PHASE_SUCCEEDED {
			t.Errorf("after the return to the newer version, build %s is %s", id, b.GetPhase())
		}
	}
}
